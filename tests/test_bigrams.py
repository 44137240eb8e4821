"""Both bigrams against counting by hand, against each other, and through their files."""
import json, math, os, random, re, subprocess, sys
from collections import Counter

import pytest
import torch

from conftest import ROOT, sentences

def ids_of(seed, n, V):
    """Ids in which some pairs are frequent and most never occur."""
    rng = random.Random(seed)
    return torch.tensor([min(int(rng.expovariate(0.1)), V - 1) for _ in range(n)], dtype=torch.int32)

def as_dict(keys, counts, V):
    return {divmod(key, V): count for key, count in zip(keys.tolist(), counts.tolist())}

def by_hand(ids):
    ids = ids.tolist()
    return dict(Counter(zip(ids, ids[1:])))

# -----------------------------------------------------------------------------
# counting

@pytest.mark.parametrize("V", [60, 4096, 4097, 100_000])
@pytest.mark.parametrize("n, block", [(2, 10), (500, 1 << 22), (500, 7), (501, 100), (500, 1)])
def test_counts_are_those_of_a_counter(bigram_counts, V, n, block):
    if V == 4096 and block < 100:
        block = 100                                          # a dense table for each block takes its time
    ids = ids_of(n, n, V)
    keys, counts = bigram_counts.count_pairs(ids, V, block)
    assert as_dict(keys, counts, V) == by_hand(ids)
    assert keys.tolist() == sorted(keys.tolist()) and counts.sum() == n - 1

def test_dense_and_sparse_count_alike(bigram_counts):
    ids = ids_of(3, 20_000, 300)
    dense, sparse = (as_dict(*bigram_counts.count_pairs(ids, V, 999), V) for V in (300, 5000))
    assert dense == sparse == by_hand(ids)

def test_ids_whose_pairs_exceed_32_bits(bigram_counts):
    V = 100_000
    ids = torch.tensor([V - 1, V - 1, V - 2, 0, V - 1, V - 1], dtype=torch.int32)
    assert as_dict(*bigram_counts.count_pairs(ids, V), V) == {(V - 1, V - 1): 2, (V - 1, V - 2): 1, (V - 2, 0): 1, (0, V - 1): 1}

def test_smoothing_by_hand(bigram_counts):
    """a b a b a c, with V = 4 and a prior of 0.5"""
    ids = torch.tensor([0, 1, 0, 1, 0, 2], dtype=torch.int32)
    model = bigram_counts.Counted(*bigram_counts.count_pairs(ids, 4), 4, prior=0.5)
    rows = [[model.log_probs(torch.tensor([i]), torch.tensor([j])).exp().item() for j in range(4)] for i in range(4)]
    expected = [[0.5 / 5, 2.5 / 5, 1.5 / 5, 0.5 / 5], [2.5 / 4, 0.5 / 4, 0.5 / 4, 0.5 / 4], [1 / 4] * 4, [1 / 4] * 4]
    assert torch.allclose(torch.tensor(rows), torch.tensor(expected), atol=1e-12)
    assert model.rows.tolist() == [3, 2, 0, 0]

@pytest.mark.parametrize("V", [5, 40, 6000])
def test_prior_by_brute_force(bigram_counts, V):
    """Leave each pair of the training text out, predict it from all others: the a that does so best."""
    ids = ids_of(V, 400, min(V, 40))
    pairs, rows = by_hand(ids), Counter(ids.tolist()[:-1])
    def left_out(a):
        return sum(n * (math.log(n - 1 + a) - math.log(rows[now] - 1 + a * V)) for (now, _), n in pairs.items())
    model = bigram_counts.Counted(*bigram_counts.count_pairs(ids, V), V)
    a = model.prior
    grid = [10 ** (exponent / 200) for exponent in range(-1000, 201)]
    assert left_out(a) >= max(map(left_out, grid)) - 1e-3 * abs(left_out(a))
    assert left_out(a) >= left_out(a * 1.1) and left_out(a) >= left_out(a / 1.1)

@pytest.mark.parametrize("V", [40, 5000])
@pytest.mark.parametrize("block", [1 << 22, 13])
def test_loss_by_hand(bigram_counts, V, block):
    ids, others = ids_of(1, 3000, 40), ids_of(2, 200, 40)
    pairs, rows = by_hand(ids), Counter(ids.tolist()[:-1])
    model = bigram_counts.Counted(*bigram_counts.count_pairs(ids, V), V, prior=0.03)
    for text in (ids, others):
        after = list(zip(text.tolist(), text.tolist()[1:]))
        nats = -sum(math.log((pairs.get(pair, 0) + 0.03) / (rows[pair[0]] + 0.03 * V)) for pair in after)
        assert model.loss(text, block) == pytest.approx(nats / len(after), rel=1e-12)

def test_a_vocabulary_of_100_000_fits(tmp_path):
    """Five million tokens, a hundred thousand different ones: some hundred MB, where a table would take 80 GB."""
    code = f"""
import resource, sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True
import torch; torch.set_num_threads(1); import bigram_counts as b
V = 100_000
g = torch.Generator().manual_seed(1)
ids = (torch.rand(5_000_000, generator=g) ** 3 * V).to(torch.int32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = b.Counted(*b.count_pairs(ids[:2_000_000], V, block=1 << 18), V)
loss, row = model.loss(ids[-100_000:]), model.log_probs(torch.tensor(V // 2).expand(V), torch.arange(V)).exp().sum().item()
print(len(model.keys), loss, row, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    pairs, loss, row, kilobytes = map(float, done.stdout.split())
    assert 1_500_000 < pairs < 2_000_000 and 8 < loss < math.log(100_000) + 1 and row == pytest.approx(1)
    assert kilobytes / (1024 if sys.platform != "darwin" else 1 << 20) < 400

def test_a_large_vocabulary_through_the_files(shop):
    """A tokenizer of more than 4096 tokens: counted sparsely, saved, loaded, and it speaks."""
    rng = random.Random(5)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(7)) for _ in range(3000)]
    shop.write("input.txt", " ".join(rng.choice(words[:1 + int(rng.expovariate(0.002)) % 3000]) for _ in range(30000)))
    assert "5,000 tokens |" in shop.ok("bpe.py", "--vocab-size", 5000)
    out = shop.ok("bigram_counts.py")
    pairs, V, _, table = re.search(r"([\d,]+) of the ([\d,]+) x ([\d,]+) = ([\d,]+) pairs occur", out).groups()
    saved = shop.load("out/bigram_counts/model.pt")
    assert (V, table) == ("5,000", "25,000,000") and int(pairs.replace(",", "")) == len(saved["keys"])
    assert sum(p.stat().st_size for p in shop.path.glob("out/bigram_counts/*")) < 24 * len(saved["keys"]) + 10_000
    assert len(shop.ok("bigram_counts.py", "--sample", "--max-new-tokens", 30)) > 30

# -----------------------------------------------------------------------------
# bits per byte

def expected_bpb(script, tokenizer, model_loss, train_docs, val_docs):
    """Bits per byte from scratch: ids with <|endoftext|> between documents, which counts nats and no bytes."""
    def joined(docs):
        ids = []
        for n, doc in enumerate(docs):
            ids += ([tokenizer.eot] if n else []) + list(tokenizer.encode(doc))
        return torch.tensor(ids, dtype=torch.int32)
    train, val = joined(train_docs), joined(val_docs)
    nats = model_loss(train, torch.cat((train[-1:], val))) * len(val)
    return nats / math.log(2) / sum(len(doc.encode("utf-8", "surrogateescape")) for doc in val_docs)

def test_bits_per_byte_by_hand(bigram_counts, shop):
    docs = [sentences(3, 3000), "a short one, ünïcödé and €: 1\n", sentences(4, 300), "b" * 40, sentences(5, 200) + "\udcff\udcfe😀"]
    (shop.path / "input.txt").unlink()
    for n, doc in enumerate(docs):
        shop.write(f"texts/{n}.txt", doc.encode("utf-8", "surrogateescape"))
    out = shop.ok("bigram_counts.py", "--tokenizer", "bytes", "--input", "texts")
    cut = int(0.9 * sum(map(len, docs)))
    assert len(docs[0]) < cut < sum(map(len, docs[:-2]))     # so two borders lie in the validation text
    train, val, at = [], [], 0
    for doc in docs:
        here = min(max(cut - at, 0), len(doc))
        train += [doc[:here]] if here else []
        val += [doc[here:]] if here < len(doc) else []
        at += len(doc)
    def loss(train, held_out):
        V, pairs, rows = 257, by_hand(train), Counter(train.tolist()[:-1])
        a = shop.load("out/bigram_counts/model.pt")["prior"]
        after = list(zip(held_out.tolist(), held_out.tolist()[1:]))
        assert sum(now == 256 for now, _ in after) == 2 == sum(then == 256 for _, then in after)
        return -sum(math.log((pairs.get(pair, 0) + a) / (rows[pair[0]] + a * V)) for pair in after) / len(after)
    bpb = expected_bpb(bigram_counts, bigram_counts.Tokenizer([]), loss, train, val)
    result = json.loads((shop.path / "out/bigram_counts/result.json").read_text())
    assert result["val_bpb"] == pytest.approx(bpb, rel=1e-6)
    assert f"{bpb:.4f} bits per byte" in out.splitlines()[-1]

def test_endoftext_is_put_between_documents_once(bigram_counts):
    """Also where the cut between training and validation falls exactly between two documents."""
    b, tokenizer = bigram_counts, bigram_counts.Tokenizer([])
    for sizes in ([90, 10], [80, 10, 10], [45, 45, 5, 5], [91, 9], [89, 11], [1, 1, 1, 97], [97, 1, 1, 1], [100], [1] * 10):
        docs = [chr(97 + n) * size for n, size in enumerate(sizes)]
        train, val = b.split(docs)
        assert "".join(train) == "".join(docs)[:int(0.9 * sum(sizes))] and "".join(train + val) == "".join(docs)
        ids = b.to_ids(tokenizer, train).tolist() + b.to_ids(tokenizer, val).tolist()
        assert ids == b.to_ids(tokenizer, docs).tolist()
        assert ids.count(256) == len(docs) - 1 and b.to_ids(tokenizer, val)[0] != 256

ALL_CORES = """
import os, sys, threading
import gpt
name, forks = sys.argv[1], []
real, os.fork = os.fork, lambda: forks.append(1) or real()
tokenizer, texts = gpt.Tokenizer.load(name), [gpt.read("input.txt")[0], gpt.EOT, "the end"]
ids = gpt.to_ids(tokenizer, texts)
assert len(forks) == min(8, len(os.sched_getaffinity(0))) if sys.platform == "linux" else not forks
before = len(forks)
want = [i for text in texts for i in (*tokenizer.encode(text), tokenizer.eot)]
assert ids.tolist() == want[:-1]
pause = threading.Event()
threading.Thread(target=pause.wait).start()                  # among threads no fork is safe
assert gpt.to_ids(tokenizer, texts).tolist() == want[:-1] and len(forks) == before
pause.set()
"""

def test_ids_of_a_large_text_come_from_all_cores(tmp_path):
    (tmp_path / "input.txt").write_text(sentences(1, 100_000) * 25)
    (tmp_path / "some.txt").write_text(sentences(1, 100_000))
    subprocess.run([sys.executable, ROOT / "bpe.py", "--input", "some.txt", "--tokenizer", "t.json", "--vocab-size", "400"],
                   cwd=tmp_path, check=True, capture_output=True, timeout=60)
    result = subprocess.run([sys.executable, "-c", ALL_CORES, "t.json"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr

def test_special_text_is_text(bigram_counts, shop):
    shop.write("input.txt", "<|endoftext|> is only text here.\n" * 40)
    shop.ok("bigram_counts.py", "--tokenizer", "bytes")
    saved = shop.load("out/bigram_counts/model.pt")
    assert 256 not in (saved["keys"] // 257).tolist() and 256 not in (saved["keys"] % 257).tolist()

def test_nothing_is_learned_from_the_validation_text(shop):
    text = sentences(1, 5000)
    cut = int(0.9 * len(text))
    models = []
    for tail in (text[cut:], "XYZ" * len(text[cut:]))[:2]:
        shop.write("input.txt", text[:cut] + tail[:len(text) - cut])
        shop.ok("bigram_counts.py", "--tokenizer", "bytes")
        models.append(shop.load("out/bigram_counts/model.pt"))
    assert models[0]["text"] != models[1]["text"] and models[0]["prior"] == models[1]["prior"]
    assert torch.equal(models[0]["keys"], models[1]["keys"]) and torch.equal(models[0]["counts"], models[1]["counts"])

# -----------------------------------------------------------------------------
# counted and learned are one model

@pytest.fixture(scope="module")
def both(server, tmp_path_factory):
    """A folder in which the table has been counted, and learned with the script's own settings."""
    from conftest import Workshop
    shop = Workshop(server, tmp_path_factory.mktemp("both") / "shop")
    shop.write("input.txt", sentences(7, 60_000))
    shop.ok("bpe.py", "--vocab-size", 300)
    shop.ok("bigram_counts.py")
    shop.said = shop.ok("bigram_nn.py", timeout=200)
    return shop

def results(shop, *names):
    return [json.loads((shop.path / f"out/{name}/result.json").read_text()) for name in names]

def test_learned_and_counted_predict_alike(both, bigram_nn):
    counted, learned = results(both, "bigram_counts", "bigram_nn")
    assert learned["val_bpb"] == pytest.approx(counted["val_bpb"], rel=0.005)
    assert learned["parameters"] == counted["parameters"] == 300 * 300
    assert (learned["text"], learned["tokenizer"]) == (counted["text"], counted["tokenizer"])

    # the two distributions, from the saved numbers alone
    saved, weights = both.load("out/bigram_counts/model.pt"), both.load("out/bigram_nn/model.pt")["weights"]["table.weight"]
    table = torch.zeros(300 * 300, dtype=torch.float64)
    table[saved["keys"]] = saved["counts"].double()
    rows = table.view(300, 300).sum(1, keepdim=True)
    p = (table.view(300, 300) + saved["prior"]) / (rows + 300 * saved["prior"])
    distance = ((weights.double().softmax(1) - p).abs().sum(1) / 2 * rows[:, 0]).sum() / rows.sum()
    assert distance < 0.03
    shown = float(re.search(r"([\d.]+)% of the probability lies elsewhere", both.said).group(1))
    assert shown == pytest.approx(100 * distance.item(), abs=0.06)

def test_learned_and_counted_speak_alike(both):
    texts = [both.ok(script, "--sample", "--max-new-tokens", 150, "--prompt", "The") for script in ("bigram_counts.py", "bigram_nn.py")]
    same = next((n for n, (a, b) in enumerate(zip(*texts)) if a != b), len(texts[0]))
    assert same > 30 or texts[0] == texts[1], texts
    greedy = [both.ok(script, "--sample", "--max-new-tokens", 40, "--temperature", 0) for script in ("bigram_counts.py", "bigram_nn.py")]
    assert greedy[0] == greedy[1]

def test_the_prior_is_learned_too(both):
    """Rows never seen have no preference, and what never follows is as unlikely as the counts say."""
    weights = both.load("out/bigram_nn/model.pt")["weights"]["table.weight"]
    saved = both.load("out/bigram_counts/model.pt")
    never = sorted(set(range(300)) - set((saved["keys"] // 300).tolist()))
    assert len(never) > 50 and torch.allclose(weights[never].softmax(1), torch.tensor(1 / 300), rtol=0.02)

def test_with_vectors(both, tmp_path):
    shop = both.fork(tmp_path / "shop")
    (shop.path / "out/bigram_nn/model.pt").rename(shop.path / "kept.pt")
    out = shop.ok("bigram_nn.py", "--n-embd", 16, "--max-steps", 300, timeout=100)
    assert "counted:" not in out
    counted, vectors = results(shop, "bigram_counts", "bigram_nn_16")
    assert vectors["parameters"] == 300 * 16 + 16 * 300 + 300
    assert vectors["val_bpb"] < 1.1 * counted["val_bpb"]
    assert len(shop.ok("bigram_nn.py", "--n-embd", 16, "--sample", "--max-new-tokens", 20)) > 20
    assert "out/bigram_nn/" in shop.fails("bigram_nn.py", "--sample")      # the table is another model

def test_training_learns_and_is_reproducible(shop):
    files = {}
    for n in range(2):
        shop.ok("bigram_nn.py", "--tokenizer", "bytes", "--max-steps", 40, "--out-dir", f"out{n}")
        files[n] = (shop.path / f"out{n}/bigram_nn/metrics.csv").read_text()
    assert files[0] == files[1]
    rows = [line.split(",") for line in files[0].splitlines()]
    assert rows[0][:2] == ["step", "loss"] and [row[0] for row in rows[1:]] == [str(n) for n in range(40)]
    losses = [float(row[1]) for row in rows[1:]]
    assert losses[0] == pytest.approx(math.log(257), abs=0.01) and losses[-1] < losses[0] / 2
    other = shop.ok("bigram_nn.py", "--tokenizer", "bytes", "--max-steps", 40, "--out-dir", "out2", "--seed", 2)
    assert (shop.path / "out2/bigram_nn/metrics.csv").read_text() != files[0] and other

def test_evaluate_by_hand(bigram_nn):
    torch.manual_seed(1)
    for n_embd in (0, 8):
        model = bigram_nn.Bigram(50, n_embd)
        torch.nn.init.normal_(model.table.weight)
        ids = ids_of(5, 700, 50)
        with torch.no_grad():
            logits = model(ids.long()).double()
            nats = [-logits[n].log_softmax(0)[ids[n + 1].long()].item() for n in range(699)]
            assert bigram_nn.evaluate(model, ids, block=64) == pytest.approx(sum(nats) / 699, rel=1e-5)
            x, y = ids[:-1].long()[:640].view(10, 64), ids[1:].long()[:640].view(10, 64)
            assert model(x, y).item() == pytest.approx(sum(nats[:640]) / 640, rel=1e-5)
            assert model(x).shape == (10, 64, 50)

@pytest.mark.parametrize("script", ["bigram_counts.py", "bigram_nn.py"])
def test_save_load_sample(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    texts = [shop.ok(script, "--sample", "--max-new-tokens", 40, "--seed", seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    three = shop.ok(script, "--sample", "--max-new-tokens", 10, "--num-samples", 3, "--prompt", "The")
    parts = three.split("-" * 20 + "\n")
    assert len(parts) == 3 and all(part.startswith("The") for part in parts) and len(set(parts)) > 1
    for path in shop.path.glob("out/bigram*/model.pt"):
        assert set(torch.load(path, weights_only=True)) >= {"config", "tokenizer", "text"}
