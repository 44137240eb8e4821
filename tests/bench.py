"""
bench.py: ours against the peers, side by side in one run, as a table of ratios. A benchmark, not a test.

    python tests/bench.py                              # every part
    python tests/bench.py bpe --text input.txt         # one part; the text for the small comparisons

Every contestant is a process of its own that is given the same file. They take turns (ours, peer, ours, peer); medians
count. A peer that is not installed leaves its row empty. Below 1 is faster, or smaller, than the peer.
"""
import argparse, importlib.metadata, inspect, json, os, platform, random, statistics, subprocess, sys, sysconfig, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import bpe

# --- the corpora ---

def corpus(folder, size):
    """A file of about that many bytes: the .py .md .rst .txt files of the standard library and site-packages, shuffled."""
    path = folder / f"corpus{size}.txt"
    if not path.exists():
        names = {name for where in ("stdlib", "purelib") for name in Path(sysconfig.get_path(where)).resolve().rglob("*")
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
    """A command -> seconds, MB at its peak, its last line of output; None if what it imports is not there.

    The seconds are the whole process, reading and importing included, or what it says itself: {"seconds": 1.2}.
    MB: the memory of the process and its children, what they share counted once (Linux only). Asking slows it down.
    """
    start, peak = time.perf_counter(), 0
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tempfile.gettempdir())
    while memory and child.poll() is None:
        peak = max(peak, sum(pss(pid) for pid in family(child.pid)))
        time.sleep(0.03)
    out, err = child.communicate()
    seconds = time.perf_counter() - start
    if child.returncode:
        if b"ModuleNotFoundError" in err:
            return None
        sys.exit(f"{command}\n{err.decode()}")
    last = (out.decode().splitlines() or [""])[-1]
    said = json.loads(last) if last.startswith("{") else {}
    return said.get("seconds", seconds), peak / 1e6, said

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

ROWS = []

def compare(work, ours, peers, rounds, memory=False):
    """Commands by name, ours and the peers' -> rows of the table."""
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
            a, b = (statistics.median(seconds for seconds, *_ in times[name]) for name in (mine, peer))
            small = [f"{peaks[name][1]:.0f} MB" if memory and peaks[name][1] else "" for name in (mine, peer)]
            ROWS.append((work, mine, f"{a:.2f} s", peer, f"{b:.2f} s", f"{a / b:.2f}", *small))
            print(*ROWS[-1], sep=" | ", flush=True)

def table():
    head = ("work", "ours", "", "peer", "", "ratio", "memory", "")
    widths = [max(len(row[i]) for row in [head, *ROWS]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *ROWS]:
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(row, widths)), "|")

# --- bpe: training and encoding ---

READ = f"""
import json, re, sys, time
SEAM, SPLIT, EOT = re.compile({bpe.SEAM.pattern!r}), {bpe.SPLIT!r}, {bpe.EOT!r}
text = open(sys.argv[1], encoding="utf-8", newline="").read()
"""
PARTLY = f"""
{inspect.getsource(bpe.blocks)}
texts = blocks(text[:int(0.9 * len(text))], 1 << 16)         # what ours trains on, in pieces, as the peers like it
"""
TRAIN = {
    "tokenizers": """
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
peer = tokenizers.Tokenizer(models.BPE())
peer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
peer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=int(sys.argv[2]), special_tokens=[EOT], show_progress=False,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
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
    "tiktoken": """
import tiktoken, torch
import bpe
tokenizer = bpe.Tokenizer.load(sys.argv[2])
peer = tiktoken.Encoding("peer", pat_str=SPLIT, special_tokens={}, mergeable_ranks={p: i for i, p in enumerate(tokenizer.pieces[:-1])})
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
    for name, path, vocab_size, rounds in ((args.text.name, args.text, 1024, 5), ("20 MB", corpus(folder, 20_000_000), 8192, 3),
                                           ("100 MB", corpus(folder, 100_000_000), 32768, 3)):
        ours = [sys.executable, ROOT / "bpe.py", "--input", path, "--vocab-size", vocab_size, "--tokenizer", saved]
        peers = {peer: [sys.executable, "-c", READ + PARTLY + code, path, vocab_size, folder / "peer"] for peer, code in TRAIN.items()}
        compare(f"train BPE, {name} to {vocab_size:,}", {"bpe.py": ours}, peers, rounds, memory=True)
        if vocab_size == 8192:
            said = "print(json.dumps({'seconds': time.perf_counter() - start, 'ids': len(ids)}))"
            entries = {peer: [sys.executable, "-c", READ + code + said, path, saved] for peer, code in ENCODE.items()}
            compare(f"encode {name}, {vocab_size:,}", {"bpe.py": entries.pop("bpe.py")}, entries, rounds)

PARTS = {"bpe": bench_bpe}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--text", type=Path, default=ROOT / "input.txt", help="text for the small comparisons (default: input.txt)")
    args = parser.parse_args()
    args.text = args.text.resolve()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}: they are {', '.join(PARTS)}")
    if not args.text.is_file():
        parser.error(f"no text at {args.text}: give one with --text")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts or PARTS:
            PARTS[part](args, Path(folder))
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "") \
        if os.path.exists("/proc/cpuinfo") else platform.processor()
    versions = []
    for name in ("torch", "regex", "tokenizers", "rustbpe", "tiktoken", "transformers"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    print(f"\n{platform.system()}, {os.cpu_count()} x {processor or platform.machine()}; Python {platform.python_version()}, "
          f"{', '.join(versions)}\n{args.text.name}: {args.text.stat().st_size:,} bytes; 20 MB and 100 MB: the .py .md .rst .txt "
          "files of the standard library and site-packages\n")
    table()

if __name__ == "__main__":
    main()
