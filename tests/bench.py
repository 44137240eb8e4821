"""
bench.py: ours against the peers, side by side in one run: a table of ratios. A benchmark, not a test.

    python tests/bench.py                              # every part
    python tests/bench.py bpe --text input.txt         # one part; the text for the small comparisons

Every contestant is a process of its own, given the same file. They take turns (ours, peer, ours, peer); medians
count. A peer that is not installed leaves its row empty. ratio: our time by the peer's, below 1 is faster.
"""
import argparse, importlib.metadata, inspect, json, os, platform, random, re, statistics, subprocess, sys
import sysconfig, tempfile, time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import bpe

# --- the corpora ---

def corpus(folder, size):
    """A file of about that size: .py .md .rst .txt files of the standard library and site-packages, shuffled."""
    path = folder / f"corpus{size}.txt"
    if not path.exists():
        roots = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib")]
        names = {name for root in roots for name in root.rglob("*")
                 if name.suffix in (".py", ".md", ".rst", ".txt") and name.is_file()}
        names, left = sorted(names), size
        random.Random(1).shuffle(names)
        with open(path, "wb") as f:
            for name in names:
                left -= f.write(name.read_bytes()[:left].decode("utf-8", "ignore").encode())
        if left > 10:
            print(f"note: this machine has {(size - left) / 1e6:.0f} MB of such text, not {size / 1e6:.0f}")
    return path

# --- taking turns ---

def run(command, memory=False):
    """A command -> seconds, MB; None if what it imports is not there.

    The seconds are those of the whole process, importing and reading included, or what it prints last:
    {"seconds": 1.2}. MB is the peak of it and its children, what they share counted once (Linux only).
    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, cwd=tempfile.gettempdir(),
                                 env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})
        while memory and child.poll() is None:
            peak = max(peak, sum(map(pss, family(child.pid))))
            time.sleep(0.03)
        child.wait()
        seconds = time.perf_counter() - start
        out.seek(0), err.seek(0)
        said, errors = out.read().decode().splitlines()[-1:], err.read().decode()
    if child.returncode:
        if "ModuleNotFoundError" in errors:
            return None
        sys.exit(f"{command}\n{errors}")
    return json.loads(said[0])["seconds"] if said and said[0].startswith("{") else seconds, peak / 1e6

def family(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in family(child))]

def pss(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

PEERS = ["tokenizers", "rustbpe", "tiktoken", "transformers"]
ROWS = []

def compare(work, ours, peers, rounds, memory=False, tokens=0):
    """Commands by name, ours and the peers' -> rows of the table; given tokens, how many, as tokens a second."""
    show = (lambda seconds: f"{tokens / seconds:,.0f} tok/s") if tokens else "{:.2f} s".format
    entries = {**ours, **peers}
    peaks = {name: run(command, memory=True) for name, command in entries.items()} if memory else {}
    times = {name: [] for name in entries}
    for _ in range(rounds):
        for name, command in entries.items():
            times[name].append(run(command))
    for mine in ours:
        for peer in peers:
            if None in times[peer]:
                ROWS.append((work, mine, "", peer, "", "", "", ""))
                continue
            a, b = (statistics.median(seconds for seconds, _ in times[name]) for name in (mine, peer))
            small = [f"{peaks[name][1]:.0f} MB" if memory and peaks[name][1] else "" for name in (mine, peer)]
            ROWS.append((work, mine, show(a), peer, show(b), f"{a / b:.2f}", *small))
            print(*ROWS[-1], sep=" | ", flush=True)

def table():
    head = ("work", "ours", "", "peer", "", "ratio", "memory", "")
    widths = [max(len(row[i]) for row in [head, *ROWS]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *ROWS]:
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(row, widths)), "|")

# --- bpe: training and encoding ---

READ = f"""
import json, re, sys, time
SEAM, SPLIT, EOT = {bpe.SEAM!r}, {bpe.SPLIT!r}, {bpe.EOT!r}
text = open(sys.argv[1], encoding="utf-8", newline="").read()
"""
PARTLY = f"""
{inspect.getsource(bpe.blocks)}
texts = blocks(text[:int(0.9 * len(text))], 1 << 16)         # what ours trains on, as the peers like it
"""
TRAIN = {
    "tokenizers": """
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
peer = tokenizers.Tokenizer(models.BPE())
peer.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
trainer = trainers.BpeTrainer(vocab_size=int(sys.argv[2]), special_tokens=[EOT], show_progress=False,
                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
peer.train_from_iterator(texts, trainer)
peer.save(sys.argv[3])
""",
    "rustbpe": """
import rustbpe
peer = rustbpe.Tokenizer()
peer.train_from_iterator(texts, int(sys.argv[2]) - 1, buffer_size=256, pattern=SPLIT)
open(sys.argv[3], "w").write(str(peer.get_mergeable_ranks()))
"""}
ENCODE = {
    "bpe.py": """
import torch
import bpe
tokenizer = bpe.Tokenizer.load(sys.argv[2])
start = time.perf_counter()
ids = torch.frombuffer(tokenizer.encode(text), dtype=torch.uint16)
""",
    "bigram_counts.py": """
import bigram_counts
tokenizer = bigram_counts.Tokenizer.load(sys.argv[2])
start = time.perf_counter()
ids = bigram_counts.to_ids(tokenizer, [text])
""",
    "tiktoken": """
import tiktoken, torch
import bpe
tokenizer = bpe.Tokenizer.load(sys.argv[2])
ranks = {piece: i for i, piece in enumerate(tokenizer.pieces[:-1])}
peer = tiktoken.Encoding("peer", pat_str=SPLIT, special_tokens={}, mergeable_ranks=ranks)
start = time.perf_counter()
ids = torch.tensor(peer.encode_ordinary(text))
""",
    "tokenizers": """
import tokenizers, torch
peer = tokenizers.Tokenizer.from_file(sys.argv[2])
start = time.perf_counter()
ids = torch.tensor(peer.encode(text).ids)
"""}

def bench_bpe(args, folder):
    saved = folder / "tokenizer.json"
    for name, path, vocab_size, rounds in [(args.text.name, args.text, 1024, 5),
                                           ("20 MB", corpus(folder, 20_000_000), 8192, 3),
                                           ("100 MB", corpus(folder, 100_000_000), 32768, 3)]:
        ours = [sys.executable, ROOT / "bpe.py", "--input", path, "--vocab-size", vocab_size,
                "--tokenizer", saved]
        peers = {peer: [sys.executable, "-c", READ + PARTLY + code, path, vocab_size, folder / "peer"]
                 for peer, code in TRAIN.items()}
        compare(f"train BPE, {name} to {vocab_size:,}", {"bpe.py": ours}, peers, rounds, memory=True)
        if vocab_size == 8192:
            say = "print(json.dumps({'seconds': time.perf_counter() - start}))"
            entries = {who: [sys.executable, "-c", READ + code + say, path, saved]
                       for who, code in ENCODE.items()}
            ours = {who: entries.pop(who) for who in ("bpe.py", "bigram_counts.py")}
            compare(f"encode {name}, {vocab_size:,}", ours, entries, rounds)

# --- bigram: counting pairs, ids in memory ---

COUNT = {
    "bigram_counts.py": "bigram_counts.count_pairs(ids, 1024)",
    "torch.bincount": "torch.bincount(ids[:-1].long() * 1024 + ids[1:], minlength=1024 * 1024)"}
COUNTING = """
import json, statistics, sys, time, torch
import bigram_counts
ids, times = torch.load(sys.argv[1]), []
for _ in range(7):
    start = time.perf_counter()
    COUNT
    times.append(time.perf_counter() - start)
print(json.dumps({"seconds": statistics.median(times)}))
"""

def bench_bigram(args, folder):
    text = corpus(folder, 20_000_000).read_text(encoding="utf-8")
    ids = torch.tensor(small_tokenizer(args, folder).encode(text)).int().repeat(4)
    torch.save(ids, folder / "ids.pt")
    ours, peers = ({who: [sys.executable, "-c", COUNTING.replace("COUNT", code), folder / "ids.pt"]
                    for who, code in COUNT.items() if (who == "torch.bincount") == peer} for peer in (False, True))
    compare(f"count {len(ids) / 1e6:.0f}M bigrams, 1,024", ours, peers, rounds=3, memory=True, tokens=len(ids))

def small_tokenizer(args, folder):
    """The one of 1,024 tokens, trained on --text."""
    if not (folder / "small.json").exists():
        run([sys.executable, ROOT / "bpe.py", "--input", args.text, "--vocab-size", 1024,
             "--tokenizer", folder / "small.json"])
    return bpe.Tokenizer.load(str(folder / "small.json"))

# --- gpt and sample: the transformer's training and speaking; start: how soon its first character comes ---

SHAPE = dict(n_layer=4, n_head=4, n_kv_head=4, n_embd=128, n_hidden=384, batch_size=24, dropout=0.0)
MODELS = f"""
import gpt                                                   # first: it sets how torch's threads wait
import csv, json, statistics, sys, time, torch
from types import SimpleNamespace
SHAPE = {SHAPE}
def qwen3():
    from transformers import Qwen3Config, Qwen3ForCausalLM
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, rms_norm_eps=1e-6, tie_word_embeddings=True, eos_token_id=None,
        bos_token_id=None, pad_token_id=0, rope_parameters=dict(rope_type="default", rope_theta=10000.0)))
times = []
"""
MEDIAN = """
print(json.dumps({"seconds": statistics.median(times)}))
"""
LEARN = {
    # as it is used, optimisers, clipping and average included; evaluation is not in its ms
    "gpt.py": """
config = gpt.Config(*sys.argv[1:4], device="cpu", block_size=64, max_steps=100, eval_every=100, fresh=True, **SHAPE)
gpt.train(config)
with open(sys.argv[3] + "/gpt/metrics.csv") as f:
    times = [float(row["ms"]) / 1000 for row in csv.DictReader(f) if 20 <= int(row["step"]) < 100]
""",
    "transformers": """
model = qwen3().train()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
for step in range(100):
    rows = torch.randint(1024, (24, 64))
    start = time.perf_counter()
    model(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    times += [time.perf_counter() - start] if step >= 20 else []
"""}
SPEAK = """
torch.manual_seed(1337)
ours, tokenizer = gpt.GPT(gpt.Config(block_size=320, **SHAPE), 1024).eval(), SimpleNamespace(eot=-1, pieces=[b" "] * 1024)
for p in ours.parameters():
    torch.nn.init.normal_(p, 1.0 if p.dim() == 1 else 0.0, 0.1)
"""
SPEAKERS = {
    "gpt.py": """
reader = gpt.make_reader(ours)
for _ in range(6):
    start = time.perf_counter()
    for _ in gpt.generate(reader, tokenizer, gpt.Config(max_new_tokens=256), [10], torch.Generator()):
        pass
    times.append(time.perf_counter() - start)
""",
    "transformers": """
peer = qwen3().eval()
names = {"embd": "embed_tokens", "blocks": "layers", "attn_norm": "input_layernorm", "attn": "self_attn",
         "mlp_norm": "post_attention_layernorm"}
peer.load_state_dict({".".join(["model", *(names.get(part, part) for part in name.split("."))]): weight
                      for name, weight in ours.state_dict().items()}, strict=False)
peer.tie_weights()
with torch.inference_mode():
    assert torch.allclose(peer(torch.arange(50)[None]).logits, ours(torch.arange(50)[None]), atol=1e-3), "not the same weights"
    for _ in range(6):
        start = time.perf_counter()
        said = peer.generate(torch.tensor([[10]]), max_new_tokens=256, do_sample=True, top_k=0)
        times.append(time.perf_counter() - start)
assert said.shape == (1, 257)
"""}
FIRST = """
import json, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
assert child.stdout.read(1)
print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
child.communicate()
"""

def bench_gpt(args, folder):
    small_tokenizer(args, folder)
    ours, peer = ([sys.executable, "-c", MODELS + code + MEDIAN, args.text, folder / "small.json", folder / "out"]
                  for code in LEARN.values())
    compare("train GPT, 24 x 64 tokens a step", {"gpt.py": ours}, {"transformers": peer}, rounds=7, tokens=24 * 64)

def bench_sample(args, folder):
    ours, peer = ([sys.executable, "-c", MODELS + SPEAK + code + MEDIAN] for code in SPEAKERS.values())
    compare("sample 256 tokens, one stream", {"gpt.py": ours}, {"transformers": peer}, rounds=9, tokens=256)

def bench_start(args, folder):
    shape = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]
    small_tokenizer(args, folder)
    run([sys.executable, ROOT / "gpt.py", "--input", args.text, "--tokenizer", folder / "small.json", "--device", "cpu",
         "--out-dir", folder / "start", "--max-steps", 1, "--block-size", 64, *shape])
    ours = [sys.executable, "-c", FIRST, sys.executable, ROOT / "gpt.py", "--sample", "--out-dir", folder / "start"]
    peer = [sys.executable, "-c", FIRST, sys.executable, "-c", "import torch; print(1, flush=True)"]
    compare("first character", {"gpt.py --sample": ours}, {"import torch": peer}, rounds=7)

PARTS = {"bpe": bench_bpe, "bigram": bench_bigram, "gpt": bench_gpt, "sample": bench_sample, "start": bench_start}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--text", type=Path, default=ROOT / "input.txt",
                        help="text for the small comparisons (default: input.txt)")
    args = parser.parse_args()
    args.text = args.text.resolve()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}: they are {', '.join(PARTS)}")
    if not args.text.is_file():
        parser.error(f"no text at {args.text}: give one with --text")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts or PARTS:
            PARTS[part](args, Path(folder))
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = re.search(r"model name\s*: (.*)", about)
    processor = processor[1] if processor else platform.machine()
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    versions = [f"{name} {installed[name]}" for name in ("torch", "regex", *PEERS) if name in installed]
    print(f"\n{platform.system()}, {os.cpu_count()} x {processor}; Python {platform.python_version()}, "
          f"{', '.join(versions)}\n{args.text.name}: {args.text.stat().st_size:,} bytes; 20 MB and 100 MB: "
          "the .py .md .rst .txt files of the standard library and site-packages\n")
    table()

if __name__ == "__main__":
    main()
