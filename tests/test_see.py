"""What is shown is what is: explained numbers, pictures, curves, stretches known by heart; and the search for settings."""
import itertools, json, os, random, re, shlex, shutil, signal, time
from collections import Counter

import pytest
import torch

from conftest import TINY, load_script, sentences
from test_gpt import random_model
from test_wandb import KEY, ONLINE

NONE = "import sys; sys.modules['matplotlib'] = None"        # as where it is not installed
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

def is_drawn(path):
    """A PNG in which there is something to see."""
    from matplotlib.image import imread
    assert path.stat().st_size < 400_000
    return imread(path)[..., :3].std() > 0.05

def labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()], [label.get_text() for label in axes.get_yticklabels()]

def in_colour(module, monkeypatch):
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

# -----------------------------------------------------------------------------
# one text's way through the model

@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
def test_what_is_explained_is_the_model(gpt, n_kv_head):
    model, ids = random_model(gpt, n_kv_head=n_kv_head), [5, 9, 59, 9, 0, 31, 7]
    stages = gpt.walk(model, ids)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    assert torch.equal(dict(stages)["logits"], logits) and torch.equal(dict(stages)["softmax"], logits.softmax(-1))
    lens = [shares for stage, shares in stages if stage == "next?"]
    assert len(lens) == 3 and torch.allclose(lens[-1], logits.softmax(-1), atol=1e-6)
    assert torch.allclose(lens[0], (model.norm(model.embd.weight[ids]) @ model.embd.weight.T).softmax(-1), atol=1e-5)
    assert torch.equal(dict(stages)["embeddings"], model.embd.weight[ids])
    by_stage = {name: [x for stage, x in stages if stage == name] for name, _ in stages}
    before = [by_stage["embeddings"][0], *by_stage["residual stream"]]
    for n, block in enumerate(model.blocks):
        q, k, v, weights = (by_stage[name][n] for name in ("queries", "keys", "values", "looks at"))
        assert q.shape == (4, 7, 8) and k.shape == v.shape == (n_kv_head, 7, 8) and weights.shape == (4, 7, 7)
        assert torch.allclose(weights.sum(-1), torch.ones(4, 7)) and weights.min() >= 0
        assert weights.triu(1).abs().max() == 0 and weights.std() > 0.1
        assert torch.allclose(weights, (q @ k.repeat_interleave(4 // n_kv_head, dim=0).mT / 8 ** 0.5).masked_fill(
            torch.ones(7, 7, dtype=bool).triu(1), -torch.inf).softmax(-1), atol=1e-6)
        # with these weights, its values and its last matrix the attention module makes what it makes
        y = (weights @ v.repeat_interleave(4 // n_kv_head, dim=0)).transpose(0, 1).flatten(1)
        with torch.no_grad():
            made = block.attn(block.attn_norm(before[n])[None], model.cos[:7], model.sin[:7])[0]
            assert torch.allclose(y @ block.attn.o_proj.weight.T, made, atol=1e-4) and made.abs().max() > 0.1
            x = before[n] + made
            assert torch.allclose(x + block.mlp(block.mlp_norm(x)), before[n + 1], atol=1e-5)
    assert torch.allclose(by_stage["norm"][0], model.norm(before[-1]))

def test_explain(trained, gpt, tmp_path, monkeypatch):
    shop = trained.fork(tmp_path / "shop")
    text = "The cat $a$ b\n"
    shown = shop.ok("gpt.py", "--explain", text)
    monkeypatch.chdir(shop.path)
    model, tokenizer = gpt.trained(gpt.Config())
    ids = tokenizer.encode(text).tolist()
    assert "The·cat·$a$·b↵" in shown and text.encode().hex(" ") in shown and all(f"{gpt.visible(tokenizer.pieces[i])} {i}" in shown for i in ids)
    assert f"({len(ids)}, 16)" in shown and f"(2, {len(ids)}, {len(ids)})" in shown and f"({len(ids)}, 300)" in shown
    p, best = model(torch.tensor([ids]))[0, -1].softmax(-1).topk(5)
    last = next(line for line in shown.splitlines() if line.startswith("softmax"))
    assert re.findall(r"(\d+)%", last) == [f"{100 * x:.0f}" for x in p]
    assert [gpt.visible(tokenizer.pieces[i]) for i in best] == re.findall(r"(\S+) +\d+%", last)
    assert is_drawn(shop.path / "out/gpt/explain.png")
    assert not CONTROL.search(shown)

    in_colour(gpt, monkeypatch)
    assert gpt.shade("x", 0.9) == "\033[38;5;208mx\033[0m" != gpt.shade("x", 0.1)
    monkeypatch.setenv("NO_COLOR", "1")
    assert gpt.shade("x", 0.9) == "x" and gpt.shade("x", 0.9, "[x]") == "[x]"

def test_explain_a_long_text_and_none(trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    assert "the last 16: " in shop.ok("gpt.py", "--explain", "A king " * 50, before=NONE)      # the context
    assert "--explain" in shop.fails("gpt.py", "--explain", "")
    assert "trains one" in shop.fails("gpt.py", "--explain", "The", "--out-dir", "nowhere")

def test_explained_picture(gpt):
    from matplotlib.figure import Figure
    model, ids = random_model(gpt), list(b"\n a$b$"[:6])
    model.embd.weight.data = torch.randn(257, 32)
    tokenizer = gpt.Tokenizer([])
    stages = gpt.walk(model, ids)
    lens = torch.stack([shares for stage, shares in stages if stage == "next?"])
    names = [gpt.visible(tokenizer.pieces[i]) for i in ids]
    figure = Figure(layout="constrained")
    gpt.draw_walk(figure, names, stages, [*map(gpt.visible, tokenizer.pieces)])
    figure.savefig("/dev/null", format="png")                # $ starts no formula
    *maps, table, scale = figure.axes
    assert len(maps) == 2 * 4 and names == ["↵", "·", "a", "$", "b", "$"]
    assert {axes.get_title() for axes in maps} == {f"layer {n}, head {h}" for n in (1, 2) for h in (1, 2, 3, 4)}
    for axes in maps:
        layer, head = map(int, re.findall(r"\d", axes.get_title()))
        drawn = axes.images[0].get_array()
        weights = [weights for stage, weights in stages if stage == "looks at"][layer - 1][head - 1]
        assert all(drawn.mask[y][x] if x > y else drawn[y][x] == weights[y][x] for y in range(6) for x in range(6))
    at = {axes.get_title(): axes for axes in maps}
    assert labels(at["layer 1, head 1"])[1] == names and labels(at["layer 2, head 4"])[0] == names
    assert labels(table) == (names, ["embeddings", "after layer 1", "after layer 2"])
    guesses = [text.get_text() for text in table.texts]
    assert guesses == [gpt.visible(tokenizer.pieces[i]) for i in lens.argmax(-1).flatten()]
    assert {(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in (*maps, table)} == {(0, 1)}

def test_without_matplotlib_the_text_stands_alone(trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    for script, *flags in (("gpt.py", "--explain", "The"), ("gpt.py", "--plot"), ("bigram_nn.py", "--plot")):
        shown = shop.ok(script, *flags, before=NONE)
        assert "pip install matplotlib" in shown.splitlines()[-1] and shown.count("\n") > 12
        assert not list(shop.path.rglob("*.png"))

def test_a_notebook_shows_the_picture(gpt, monkeypatch, tmp_path):
    import IPython.display
    shown = []
    monkeypatch.setattr(gpt.builtins, "__IPYTHON__", True, raising=False)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    gpt.picture(str(tmp_path / "a.png"), gpt.draw_curves, {"validation": [(0, 4.0), (9, 2.0)]})
    assert [image.data for image in shown] == [(tmp_path / "a.png").read_bytes()] and is_drawn(tmp_path / "a.png")

# -----------------------------------------------------------------------------
# the bigrams' table

def test_pairs(trained, bigram_nn, monkeypatch, capsys, tmp_path):
    from matplotlib.figure import Figure
    shop = trained.fork(tmp_path / "shop")
    monkeypatch.chdir(shop.path)
    drawn = {}
    def picture(path, draw, *what):
        drawn.update(figure=Figure(), path=path)
        draw(drawn["figure"], *what)
    monkeypatch.setattr(bigram_nn, "picture", picture)
    bigram_nn.plot(bigram_nn.Config())
    shown = capsys.readouterr().out.splitlines()[2:]

    tokenizer = bigram_nn.Tokenizer.load("out/tokenizer.json")
    ids = [*tokenizer.encode(bigram_nn.split(bigram_nn.read("input.txt"))[0][0])]
    pairs, rows = Counter(zip(ids, ids[1:])), Counter(ids[:-1])
    table = shop.load("out/bigram_nn/model.pt")["weights"]["table.weight"].softmax(-1)
    name = {i: bigram_nn.visible(piece) for i, piece in enumerate(tokenizer.pieces)}
    assert len(shown) == 15
    prior = shop.load("out/bigram_counts/model.pt")["prior"]
    counted = {(name[x], name[y]): (n + prior) / (rows[x] + prior * len(name)) for (x, y), n in pairs.items()}
    learned = {(name[x], name[y]): table[x, y].item() for x, y in pairs}
    times = {(name[x], name[y]): n for (x, y), n in pairs.items()}
    for line, (_, n) in zip(shown, pairs.most_common(15)):
        now, after, *numbers = line.split()
        numbers = [float(number.strip("%").replace(",", "")) for number in numbers]
        assert numbers[0] == n == times[now, after]
        assert numbers[1:] == pytest.approx([100 * counted[now, after], 100 * learned[now, after]], abs=0.051)

    assert drawn["path"] == "out/bigram_nn/pairs.png"
    left, right, _ = drawn["figure"].axes
    assert (left.get_title()[:7], right.get_title()[:7]) == ("counted", "learned")
    columns, tokens = labels(left)
    assert labels(right)[0] == columns and len(columns) == len(tokens) == 20
    for axes, p in ((left, counted), (right, learned)):
        image = axes.images[0].get_array()
        both = [(y, x) for y in range(20) for x in range(20) if (tokens[y], columns[x]) in p]
        assert len(both) >= 20
        assert all(image[y][x] == pytest.approx(p[tokens[y], columns[x]], abs=1e-6) for y, x in both)

def test_pairs_picture_and_errors(trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    assert "drawing out/bigram_nn/pairs.png" in shop.ok("bigram_nn.py", "--plot")
    assert is_drawn(shop.path / "out/bigram_nn/pairs.png")
    shop.write("other.txt", sentences(2, 5000))
    assert "another text" in shop.fails("bigram_nn.py", "--plot", "--input", "other.txt")
    assert "trains one" in shop.fails("bigram_nn.py", "--plot", "--n-embd", 64)

# -----------------------------------------------------------------------------
# curves

def test_curves_and_a_damaged_result(trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    shop.write("out/bigram_counts/result.json", '{"val')
    assert "out/bigram_counts/result.json is damaged" in shop.fails("gpt.py", "--plot")

HEAD = "step,loss,lr,grad_norm,scale,ms,tokens_per_second,seconds,val_loss,val_bpb\n"

@pytest.mark.parametrize("torn", ["4,2.0,0.1,1,1,5", "4,2.0,0.1,1,1,50,100,0.25,3.0,2", "4", "4,abc,0.1\n5,2.0,0.1\n",
                                  "4" + 12 * ",1" + "\n5,2.0,0.1\n"])
def test_curves_of_half_a_csv(gpt, shop, torn, monkeypatch):
    shop.write("out/gpt/metrics.csv", HEAD + "0,6.0,0.1,1,1,50,100,0.05,6.0,4.0\n1,5.0,0.1,1,1,50,100,0.1,,\n"
               "2,nan,0.1,1,1,50,100,0.15,,\n3,3.0,0.1,1,1,50,100,0.2,3.3,2.2\n" + torn)
    shop.write("out/bigram_counts/result.json", json.dumps(dict(val_bpb=2.5)))
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(gpt, "picture", lambda *what: drawn.extend(what[2:]))
        patch.setattr(gpt.sys, "exit", lambda status: None)
        gpt.plot(gpt.Config(out_dir=str(shop.path / "out")))
    lines, = drawn
    assert [*lines] == ["raw bytes", "bigram_counts", "training", "validation"]
    assert lines["training"] == [[0, pytest.approx(4.0)], [1, pytest.approx(10 / 3)], [3, pytest.approx(2.0)]]
    assert lines["validation"] == [(0, 4.0), (3, 2.2)]
    shop.write("out/gpt/metrics.csv", HEAD + "2,4.0,0.1\n3,3.0,0.1,1,1,50,100,0.2,3.3,2.2\n")        # the beginning is lost
    assert gpt.curves(gpt.Config(out_dir=str(shop.path / "out")))["validation"] == [(3, 2.2)]
    for name, level in ("raw bytes", 8.0), ("bigram_counts", 2.5):
        steps, values = zip(*lines[name])
        assert {*values} == {level} and steps[0] == 0 and steps[-1] >= 3 and steps == tuple(sorted(steps))
    with open(shop.path / "out/gpt/metrics.csv", "ab") as f:
        f.write(b'"\xef')                                    # half a character; losses of 0 are none on a log scale
    shop.write("out/bigram_nn/result.json", json.dumps(dict(val_bpb=0.0)))
    shop.ok("gpt.py", "--plot")
    (shop.path / "out/bigram_nn/result.json").unlink()
    shown = shop.ok("gpt.py", "--plot")
    assert len(shown.splitlines()) <= 18 and not CONTROL.search(shown) and max(map(len, shown.splitlines())) <= 100
    assert all(f" {end}" in shown for end in ("validation 2.200", "training 2.000", "raw bytes 8.000", "bigram_counts 2.500"))
    assert is_drawn(shop.path / "out/curves.png")

def test_where_the_chart_puts_things(gpt):
    levels = {name: [(step, level) for step in range(101)] for name, level in (("eight", 8.0), ("four", 4.0), ("three", 3.95))}
    lines = gpt.chart({**levels, "training": [[0, 8.0], [100, 2.0]], "validation": [(0, 4.0), (100, 2.0)]}, width=10, height=9)
    assert len(lines) == 10 and lines[-1].split("└")[0] == "step 0 " and lines[-1].endswith(" 100")
    body = [line.split("│")[1] for line in lines[:9]]
    assert [row for row, line in enumerate(body) if "●" in line] == [4, 8]     # 4 is half way from 8 to 2
    assert body[4][0] == "●" and body[8][9] == "●"
    assert body[0].endswith("eight 8.000") and body[4].endswith("four 4.000 three 3.950")
    assert body[8].endswith("training 2.000 validation 2.000")
    assert body[0][0] == "•" and body[0][1:10] == body[4][1:10] == "─" * 9 and body[2] == ""
    values = [float(line[:6]) for line in lines[:9]]
    assert values == sorted(values, reverse=True) and values[0] == 8 and 1.9 < values[-1] < 2
    assert gpt.chart({"raw bytes": [(0, 8.0)], "training": [[0, 8.0]], "validation": [(0, 8.0)]})      # after the first evaluation: nothing else is there yet

def test_curves_are_means(gpt, shop, monkeypatch):
    rows = "".join(f"{n},{4 + n % 2},0.1,1,1,5,5,5,{'4.0,4.0' if not n else ','}\n" for n in range(120))
    shop.write("out/gpt/metrics.csv", HEAD + rows)
    drawn = []
    monkeypatch.setattr(gpt, "picture", lambda *what: drawn.extend(what[2:]))
    monkeypatch.setattr(gpt.sys, "exit", lambda status: None)
    gpt.plot(gpt.Config(out_dir=str(shop.path / "out")))
    assert drawn[0]["training"] == [[2 * n + 0.5, 4.5] for n in range(60)]

def test_curves_while_it_trains_and_before(shop):
    assert "nothing to draw" in shop.fails("gpt.py", "--plot")
    running = shop.start("gpt.py", *TINY, "--max-steps", 100_000)
    running.until("step     30")
    assert "validation" in shop.ok("gpt.py", "--plot")
    running.kill(signal.SIGTERM)
    assert running.wait().returncode == 143
    for nothing in ("", HEAD, HEAD + "0,5.0,0.1,1,1,5"):
        shop.write("none/gpt/metrics.csv", nothing)
        assert "nothing to draw" in shop.fails("gpt.py", "--plot", "--out-dir", "none")

# -----------------------------------------------------------------------------
# what is known by heart

def test_by_heart_is_exact(gpt):
    rng = random.Random(0)
    for _ in range(200):
        known = "".join(rng.choices("ab", k=300))
        text = "".join(rng.choices("ab", k=40)) + known[100:100 + rng.randint(0, 40)] + "ba"
        places = itertools.combinations(range(len(text) + 1), 2)
        plain = [(a, b) for a, b in places if b - a >= 8 and text[a:b] in known]
        marked, longest = gpt.by_heart(text, known, least=8)
        assert marked == {at for a, b in plain for at in range(a, b)}
        assert len(longest) == max((b - a for a, b in plain), default=0) and longest in text and longest in known

def test_by_heart_is_fast(gpt):
    """300 characters, half of them known, in 20 MB."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(3000)]
    known = " ".join(rng.choices(words, k=4_000_000))
    text = " ".join(rng.choices(words, k=25)) + known[-200:-50]
    start = time.time()
    marked, longest = gpt.by_heart(text, known)
    assert marked >= {*range(len(text) - 150, len(text))} and known[-200:-50] in longest
    assert time.time() - start < 20 and len(known) > 2e7

class Parrot:
    """A model that knows one text, and says it."""
    def __init__(self, ids, vocab_size):
        self.ids, self.vocab_size = ids, vocab_size

    def reader(self):
        said = iter(self.ids)
        return lambda ids, seen: torch.nn.functional.one_hot(torch.tensor(next(said)), self.vocab_size) * 100.0

def test_known_stretches_are_marked(gpt, shop, monkeypatch, capsys):
    config = gpt.Config(input=str(shop.path / "input.txt"))
    known, unseen = (texts[0] for texts in gpt.split(gpt.read(config.input)))
    tokenizer, copied = gpt.Tokenizer([]), known[1000:1060]
    monkeypatch.setattr(gpt, "make_reader", Parrot.reader)
    text = "XYZ\x1b" + copied + "QQQ" * 12                   # 100 bytes
    gpt.recite(Parrot(list(text.encode()), 257), tokenizer, config)
    shown = capsys.readouterr().out
    assert shown.count(f"XYZ�⟦{copied}⟧QQQ") == 3 and not CONTROL.search(shown)
    assert f"the longest, 60: {json.dumps(copied)}" in shown
    gpt.recite(Parrot(list(b"Q" * 100), 257), tokenizer, config)
    shown = capsys.readouterr().out
    assert "⟦" not in shown and 'word for word; none' in shown

    in_colour(gpt, monkeypatch)
    gpt.recite(Parrot(list(text.encode()), 257), tokenizer, config)
    shown = capsys.readouterr().out
    assert "⟦" not in shown and re.search(r"XYZ�\033\[\d\d;5;\d+m" + re.escape(copied) + r"\033\[0mQQQ", shown)

def test_training_ends_with_it(shop):
    shown = shop.ok("gpt.py", *TINY, "--max-steps", 2)
    assert re.search(r"\nmarked: .* word for word; (none|the longest, \d+: \")", shown) and not CONTROL.search(shown)

# -----------------------------------------------------------------------------
# the search for settings

SMALL = "SPACE.update(n_layer=[1, 2], n_head=[1, 2], n_embd=[64], block_size=[8, 16], batch_size=[2, 4])"
TUNE = ["--tokenizer", "bytes", "--warmup", 2, "--trial-seconds", 1]
OFF = {"WANDB_API_KEY": ""}

def trials(shop):
    """-> the rows of the search that wrote last, in the order in which they were made"""
    paths = sorted((shop.path / "out/tune").glob("*.json"), key=os.path.getmtime)
    return json.loads(paths[-1].read_text()) if paths else []

def test_three_trials_and_the_best_of_them(trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    before = shop.files()
    shown = shop.ok("gpt.py", *TUNE, "--tune", 3, env=OFF, patch=SMALL)
    rows = trials(shop)
    assert len(rows) == len({row["val_bpb"] for row in rows}) == 3
    assert len({row["matrix_lr"] for row in rows}) > 1
    table = re.search(r"\n val_bpb .*\n((?: *\d.*\n){3})\n", shown).group(1).splitlines()
    ranked = sorted(rows, key=lambda row: row["val_bpb"])
    assert [line.split()[:3] for line in table] == [
        [str(row["val_bpb"])[:7], str(row["parameters"]), str(row["max_steps"])] for row in ranked]
    assert "marked:" not in shown and not CONTROL.search(shown.replace("\x7f", ""))

    # the main run is as it was, and of the trials only the table is left
    after = shop.files()
    assert {os.path.dirname(name) for name in set(after) - set(before)} == {"out/tune"} and all(after[name] == before[name] for name in before)

    # the command that it ends with does what the best trial did
    command = shlex.split(re.search(r"\nthe best: python gpt.py (.*)\n", shown).group(1))
    shop.ok("gpt.py", *command)
    result = json.loads((shop.path / "out/best/gpt/result.json").read_text())
    assert result["val_bpb"] == ranked[0]["val_bpb"] and result["parameters"] == ranked[0]["parameters"]
    text = (shop.path / "out/best/gpt/metrics.csv").read_text().splitlines()
    rates = [float(line.split(",")[2]) for line in text[1:-1]]
    assert rates[-1] < 0.2 * max(rates) and len(rates) == ranked[0]["max_steps"]       # it came down within the trial

@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_search_goes_on(shop, signum):
    flags = [*TUNE, "--tune", 2, "--n-layer", 1]
    running = shop.start("gpt.py", *flags, env=OFF, patch=SMALL)
    running.until("--- ")
    while running.stdout().count("--- ") < 2 or "validation" not in running.stdout().split("--- ")[2]:
        time.sleep(0.003)
    running.kill(signum)
    assert running.wait().returncode in (143, -9)
    first = trials(shop)
    assert len(first) == 1
    shown = shop.ok("gpt.py", *flags, env=OFF, patch=SMALL)
    rows = trials(shop)
    assert rows[0] == first[0] and len(rows) == 2 and shown.count("--- ") == 1
    assert rows[1]["val_bpb"] != rows[0]["val_bpb"] and "n_layer" not in rows[0]       # typed: not searched
    again = shop.ok("gpt.py", *flags, env=OFF, patch=SMALL)  # done: only the table
    assert "--- " not in again and trials(shop) == rows
    if signum == signal.SIGKILL:
        return
    more = shop.ok("gpt.py", *flags[:-3], 3, *flags[-2:], env=OFF, patch=SMALL)
    assert more.count("--- ") == 1 and trials(shop)[:2] == rows and len(trials(shop)) == 3

    shop.write("input.txt", sentences(2, 6000))              # another text: another search
    assert shop.ok("gpt.py", *flags, env=OFF, patch=SMALL).count("--- ") == 2 and len(trials(shop)) == 2

def test_draws_are_of_seed_and_number(gpt, shop, monkeypatch, capsys):
    monkeypatch.chdir(shop.path)
    monkeypatch.setattr(gpt.sys, "exit", lambda status: None)
    def draws(**flags):
        drawn = []
        shutil.rmtree("out", ignore_errors=True)
        monkeypatch.setattr(gpt, "trial", lambda config, loaded, settings: drawn.append(settings) or {})
        gpt.tune(gpt.Config(tokenizer="bytes", wandb="off", **flags))
        return drawn
    first = draws(tune=200)
    assert len(first) == 200 and first[:20] == draws(tune=20) != draws(tune=20, seed=4)
    for name, values in gpt.SPACE.items():
        assert {settings[name] for settings in first} == set(values)
    assert not any("dropout" in settings for settings in draws(tune=3, dropout=0.3))
    assert set(gpt.SPACE) <= {f.name for f in gpt.fields(gpt.Config)}

def test_trials_that_fail(shop):
    patch = SMALL.replace("n_embd=[64]", "n_embd=[1 << 20]").replace("n_layer=[1, 2]", "n_layer=[0]")
    shown = shop.run("gpt.py", *TUNE, "--tune", 2, env=OFF, patch=patch)
    assert shown.returncode == 1 and shown.stderr == "error: no trial has come to its end: see above\n"
    assert shown.stdout.count("--n-layer must be 1 or more") == 2
    assert "no trial" in shop.fails("gpt.py", "--tokenizer", "bytes", "--tune", -1, env=OFF)

@pytest.mark.skipif(not KEY, reason="no W&B server: WANDB_BASE_URL and WANDB_API_KEY name one")
def test_a_sweep_and_a_machine_that_joins(shop, tmp_path):
    home = {**ONLINE, "HOME": str(tmp_path), "WANDB_PROJECT": "shebang-sweeps"}           # others count the runs in theirs
    patch = SMALL + "; SWEEP.update(method='random')"
    first = shop.run("gpt.py", *TUNE, "--tune", 2, env=home, patch=patch)
    assert first.returncode == 0, first
    ident = re.search(r"others join with  python gpt.py --tune 2 --sweep (\S+)", first.stdout).group(1)
    other = shop.run("gpt.py", *TUNE, "--tune", 3, "--sweep", ident, "--out-dir", "out2", env=home, patch=patch)
    assert other.returncode == 0, other
    def table(shown):
        return re.findall(r"^ +([\d.]{3,7}) +(\d+ +\d+) ", shown.stdout, re.MULTILINE)
    assert len(table(first)) == 2 and len(table(other)) == 3 and set(table(first)) < set(table(other))
    assert [float(bpb) for bpb, _ in table(other)] == sorted(float(bpb) for bpb, _ in table(other))
    best = shlex.split(re.search(r"\nthe best: python gpt.py (.*)\n", other.stdout).group(1))
    shop.ok("gpt.py", *best, "--out-dir", "again")
    result = json.loads((shop.path / "again/gpt/result.json").read_text())
    assert str(result["val_bpb"])[:7] == table(other)[0][0]
    again = shop.run("gpt.py", *TUNE, "--tune", 2, env=home, patch=patch)      # done: no new trial
    assert again.returncode == 0 and len(table(again)) == 3 and "--- " not in again.stdout

@pytest.mark.skipif(not KEY, reason="no W&B server: WANDB_BASE_URL and WANDB_API_KEY name one")
def test_an_interrupted_sweep_makes_its_trial_again(shop, tmp_path):
    home = {**ONLINE, "HOME": str(tmp_path), "WANDB_PROJECT": "shebang-sweeps"}
    flags = [*TUNE, "--trial-seconds", 4, "--tune", 2]
    run = shop.start("gpt.py", *flags, env=home, patch=SMALL + "; SWEEP.update(method='random')")
    run.until("--- 4 s")
    time.sleep(2)
    run.kill(signal.SIGINT)
    ended = run.wait()
    assert ended.returncode == 1 and ended.stderr == "error: no trial has come to its end: see above\n"
    again = shop.run("gpt.py", *flags, env=home, patch=SMALL)
    assert again.returncode == 0 and len(re.findall(r"^ +[\d.]{3,7} +\d+ +\d+ ", again.stdout, re.MULTILINE)) == 2

# -----------------------------------------------------------------------------
# progress

@pytest.mark.parametrize("script", ["gpt.py", "bigram_counts.py", "bigram_nn.py"])
def test_a_long_stage_says_where_it_is(script, monkeypatch, capsys):
    module = load_script(script)
    now = iter(range(10_000))                                # each look at the clock: a second later
    monkeypatch.setattr(module.time, "time", lambda: float(next(now)))
    text = sentences(1, 1_000_000)
    ids = module.to_ids(module.Tokenizer([]), [text, "", text[:1000]])
    assert ids.tolist() == [*text.encode(), 256, 256, *text[:1000].encode()]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all(re.fullmatch(r"characters tokenised: [\d,]+ of [\d,]+ \| eta \d+ s", line) for line in lines)
