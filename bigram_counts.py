# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "regex"]
# ///
"""
bigram_counts.py: the simplest language model, by counting.

    python bigram_counts.py                              # count the pairs of tokens in input.txt
    python bigram_counts.py --sample --prompt "ROMEO:"   # speak

How likely is each token after each other one? Count every pair of neighbours in the training text,
add a little, a, to every count (never seen is not impossible), divide by the row's sum:

    p(next | now) = (count(now, next) + a) / (count(now) + a V)

One token of context is little, and yet what it writes already looks a little like the original.
bigram_nn.py learns the same table by gradient descent, gpt.py looks back at many tokens.

New here are the sections `data`, `counting`, `sampling` and `train`; the rest was in bpe.py.
"""
import argparse, builtins, codecs, contextlib, functools, glob, hashlib, io, itertools, json, math
import multiprocessing, os, re, signal, sys, threading, time, warnings, zipfile
from array import array
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")     # it is not needed
try:
    import regex, torch
except ImportError as missing:
    sys.exit(f"error: {missing}: `pip install regex torch`; or, if `bash run.sh` has installed it, "
             "`source .venv/bin/activate`")
except KeyboardInterrupt:                                    # importing torch takes a second
    sys.exit(130)

# -----------------------------------------------------------------------------
# frame: a setting is a flag, an error is a line (same in every script)

def flag(default, help):
    return field(default=default, metadata={"help": help})

class UserError(Exception):
    """An error the user can fix: one line that says what is wrong and what to do."""

def out_of_memory(error):
    """Does the error say so? Python, CUDA and torch on a CPU use different words."""
    return re.search("MemoryError|(out of|not enough|allocate) memory", repr(error))

def plainly(function):
    """Decorator: a user's error prints one line and exits 1 (a notebook lives on); bugs raise."""
    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except BrokenPipeError:                              # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)     # else Python's flush at exit fails
            status, message = 0, ""
        except KeyboardInterrupt:
            status, message = 130, "interrupted\n"           # 128 + SIGINT, as in a shell
        except (UserError, OSError) as error:
            status, message = 1, f"error: {error}\n"
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            status, message = 1, "error: out of memory: less text or smaller numbers take less\n"
        print(message, end="", file=sys.stderr)
        if not hasattr(builtins, "__IPYTHON__"):
            sys.exit(status)
    return run

# -----------------------------------------------------------------------------
# config

@dataclass
class Config:
    input: str = flag("input.txt", "text to learn from: a file, a folder or a glob")
    tokenizer: str = flag("out/tokenizer.json", "saved tokenizer; bytes: no merges, no file")
    out_dir: str = flag("out", "what this script makes goes to bigram_counts/ in this folder")
    seed: int = flag(1337, "same seed, same samples")
    device: str = flag("auto", "cpu, cuda or mps; auto: the fastest there is")
    sample: bool = flag(False, "generate text with the saved model, instead of training")
    prompt: str = flag("", "text to continue (- reads stdin); empty: a new line")
    num_samples: int = flag(1, "how many samples")
    max_new_tokens: int = flag(200, "tokens per sample, at most")
    temperature: float = flag(1.0, "below 1: safer, above 1: more daring, 0: always the likeliest")
    top_k: int = flag(0, "choose only among the k likeliest tokens; 0: among all")

# -----------------------------------------------------------------------------
# tokenizer: text -> chunks -> bytes -> ids, and back (same in every script)

EOT = "<|endoftext|>"                                        # the last id, between documents
# GPT-4's regex (cl100k_base in tiktoken): at each place the first alternative that matches wins
SPLIT = "|".join((
    r"'(?i:[sdmt]|ll|ve|re)",                                # English endings: it's, I'd, they've
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",                            # a word, and one space or sign before
    r"\p{N}{1,3}",                                           # up to three digits
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",                           # signs; space before, line ends after
    r"\s*[\r\n]",                                            # whitespace through its last line end
    r"\s+(?!\S)",                                            # spaces, all but the one before a word
    r"\s+"))                                                 # what is left: a space before a digit
# the same for pure ASCII text, on which `re` takes half the time of `regex`
ASCII = re.compile(r"'(?i:[sdmt]|ll|ve|re)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}"
                   r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", re.ASCII)
SEAM = r"(?<=\S)(?= )|(?<=\n)(?=\S)|\Z"                      # no chunk of SPLIT crosses these

def blocks(text, size, pattern=SPLIT):
    """str -> pieces: `size` characters, then on to the next seam; for another pattern, one."""
    most = size if pattern == SPLIT else ""                  # .{1,}: the whole text
    return (m.group() for m in re.finditer(f"(?s).{{1,{most}}}.*?(?:{SEAM})", text))

def checksum(saved):
    """Anything that JSON can hold -> its fingerprint, 16 hex digits of SHA-256."""
    return hashlib.sha256(json.dumps(saved).encode()).hexdigest()[:16]

class Tokenizer:
    """
    Byte-level BPE. Ids 0-255 are the bytes, then comes one per merge, in the order learned, and
    last <|endoftext|>. merges: list of (left id, right id); pattern: regex that cuts out chunks.

    Inside, a token is the character chr(id) and a chunk a str of those, because Python is fast at
    strings: str.replace does a merge everywhere in a chunk, and min() finds the smallest id.
    """
    def __init__(self, merges, pattern=SPLIT, fingerprint="bytes"):
        self.merges, self.pattern, self.fingerprint = merges, pattern, fingerprint
        self.pieces = [bytes([b]) for b in range(256)]       # id -> bytes
        for left, right in merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.pieces.append(EOT.encode())
        self.eot, self.vocab_size = len(self.pieces) - 1, len(self.pieces)
        self.typecode = "H" if self.vocab_size <= 1 << 16 else "I"     # 2 or 4 bytes per id
        # the merges in characters, both ways: new -> left + right, (left, right) -> new
        self.pair = {chr(256 + n): chr(left) + chr(right) for n, (left, right) in enumerate(merges)}
        self.merged = {tuple(pair): token for token, pair in self.pair.items()}
        self.tokens = functools.lru_cache(1 << 20)(self._tokens)       # a text repeats its words
        self.regex = regex.compile(pattern)

    def chunks(self, text):
        """Yields lists of chunks; all of them joined are the text."""
        if self.pattern == SPLIT:
            for block in blocks(text, 1 << 13):              # in cache: 25% faster than 1 << 20
                yield (ASCII if block.isascii() else self.regex).findall(block)
        else:
            end = 0
            for match in self.regex.finditer(text):
                yield [text[end:match.start()], match.group()]         # a gap is a chunk, too
                end = match.end()
            yield [text[end:]]

    def _tokens(self, chunk):
        """str -> str of tokens: of all possible merges the one learned first, again and again."""
        # bytes that are not UTF-8 are surrogates in a str (see read): "surrogateescape" undoes that
        word = chunk.encode("utf-8", "surrogateescape").decode("latin-1")        # byte b -> chr(b)
        if len(word) > 500:                                  # below, a megabyte of DNA takes 15 s
            for new, pair in self.pair.items():              # every merge, in the order learned
                word = word.replace(pair, new)
        get, pairs = self.merged.get, itertools.pairwise     # None: these two do not merge
        while new := min(filter(None, map(get, pairs(word))), default=None):
            word = word.replace(self.pair[new], new)         # the smallest id was learned first
        return word

    def encode(self, text, allowed_special=()):
        """str -> array of ids. "<|endoftext|>" in it is ordinary text, unless allowed by name."""
        ids = array(self.typecode)
        # chr(id) in UTF-16 or UTF-32 is the number id: a str of tokens is the bytes of the array
        codec = f"utf-{8 * ids.itemsize}-{sys.byteorder[0]}e"
        parts = text.split(EOT) if EOT in allowed_special else [text]
        for part in parts:
            for chunks in self.chunks(part):
                ids.frombytes("".join(map(self.tokens, chunks)).encode(codec, "surrogatepass"))
            ids.append(self.eot)
        return ids[:-1]                                      # none after the last part

    @classmethod
    def load(cls, path):
        """path -> the tokenizer that bpe.py saved there; "bytes" -> one without merges"""
        if path == "bytes":
            return cls([])
        try:
            saved = json.loads(Path(path).read_bytes())
            fingerprint = saved["model"].pop("fingerprint")
            if fingerprint != checksum(saved):
                raise ValueError
        except Exception as error:                           # no file, no JSON, or another kind
            why = getattr(error, "strerror", "damaged, or not written by bpe.py")
            raise UserError(f"{path}: {why}: `python bpe.py` trains one; or --tokenizer bytes")
        ids, splitter = saved["model"]["vocab"], saved["pre_tokenizer"]["pretokenizers"][0]
        # "t h" -> (116, 104)
        merges = [tuple(map(ids.get, merge.split(" "))) for merge in saved["model"]["merges"]]
        return cls(merges, splitter["pattern"]["Regex"], fingerprint)

# -----------------------------------------------------------------------------
# text: a file, a folder or a glob -> documents -> training and validation (same in every script)

def find(source):
    """A file, a glob or a folder (every file below it that is not hidden) -> sorted paths"""
    paths = [source] if os.path.exists(source) else glob.glob(source, recursive=True)
    if os.path.isdir(source):
        walk = os.walk(source, onerror=lambda error: print(f"skipped: {error}", file=sys.stderr))
        paths = (os.path.join(at, name) for at, _, names in walk for name in names)
        # hidden: below source, the name of the file or of a folder begins with a dot
        paths = [path for path in paths if f"{os.sep}." not in os.sep + path[len(source):]]
    return sorted(filter(os.path.isfile, paths))

def read(source):
    """-> list of str, the text of each file that find(source) gives, but for empty ones"""
    # as bytes: line ends stay; one that is not UTF-8 becomes a surrogate, encoded as it was again
    texts = [Path(path).read_bytes().decode("utf-8", "surrogateescape") for path in find(source)]
    if not any(texts):
        raise UserError(f"no text in {source}: --input takes a file, a folder or a glob, "
                        f"and `bash run.sh` fetches a text")
    return [text for text in texts if text]

def split(texts):
    """list of str -> training, validation texts: the last 10% of characters, never learned from."""
    cut, starts = int(0.9 * sum(map(len, texts))), itertools.accumulate(map(len, texts), initial=0)
    cuts = [(text, cut - start) for text, start in zip(texts, starts)]           # from text's start
    train = [text[:at] for text, at in cuts if at >= 0]      # 0: "", so that train ends with EOT
    val = [text[max(at, 0):] for text, at in cuts if at < len(text)]
    return train, val

# -----------------------------------------------------------------------------
# data: text -> ids, and the files that models are kept in (same in every model)

def pick_device(name):
    for name in ("cuda", "mps", "cpu") if name == "auto" else (name,):
        with contextlib.suppress(RuntimeError, AssertionError, ImportError):   # it is not here
            torch.empty(1, device=name).item()
            return torch.device(name)
    raise UserError(f"there is no --device {name}: auto takes the fastest there is")

def to_ids(tokenizer, texts):
    """list of str -> ids (N,) int32; between two texts stands the id of <|endoftext|>."""
    parts = [part for text in texts for part in (*blocks(text, 1 << 18, tokenizer.pattern), "")]
    encoded = spread(tokenizer.encode, [*filter(None, parts)])
    ids = array(tokenizer.typecode)
    for part in progress("characters tokenised:", parts):
        ids.extend(next(encoded) if part else [tokenizer.eot])         # "": the end of a text
    dtype = torch.uint16 if ids.itemsize == 2 else torch.int32
    return torch.frombuffer(ids, dtype=dtype).int()[:-1]     # none after the last text

def load_data(config, tokenizer, block_size):
    """-> training ids (N,), the last of those and all validation ids (1 + M,), text's checksum"""
    texts = read(config.input)
    data, held_out = (to_ids(tokenizer, part) for part in split(texts))
    if len(data) <= block_size or not len(held_out):
        raise UserError(f"{config.input} is too short: {len(data)} tokens to train on, "
                        f"and a context with the token after it has {block_size + 1}")
    print(f"{config.input}: {len(data):,} tokens to train on, {len(held_out):,} for validation")
    # the first validation token is predicted, too: from the one before it
    return data, torch.cat((data[-1:], held_out)), checksum(texts)

def bits_per_byte(loss, ids, tokenizer):
    """Nats per token over ids[1:] -> bits per byte of their text, comparable across tokenizers."""
    sizes = torch.tensor([*map(len, tokenizer.pieces[:-1]), 0])        # <|endoftext|> is no text
    n_bytes = max(1, sizes[ids[1:].long()].sum().item())
    return loss * (len(ids) - 1) / math.log(2) / n_bytes     # all nats, in bits, over all bytes

def save(path, saved):
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    write(path, buffer.getbuffer())

def load(paths, kind, config, remedy):
    """-> the dict saved at the first path that holds a whole one, its tokenizer; or UserError"""
    for path in filter(os.path.exists, paths):
        file = io.BytesIO(Path(path).read_bytes())
        # a damaged file may raise anything: try the next one
        with contextlib.suppress(Exception), warnings.catch_warnings(record=True):
            saved = torch.load(file, map_location="cpu", weights_only=True)
            if saved["kind"] == kind and not zipfile.ZipFile(file).testzip():    # torch checks less
                break
    else:                                                    # no break: none was whole
        what = "is damaged" if any(map(os.path.exists, paths)) else "is not there"
        raise UserError(f"{paths[0]} {what}: {remedy}")
    if path != paths[0]:
        print(f"{paths[0]} is damaged or not there: taking {path}", file=sys.stderr)
    known = {f.name for f in fields(Config)}                 # another version had other flags
    saved["config"] = {k: value for k, value in saved["config"].items() if k in known}
    name = config.tokenizer if "tokenizer" in given(config) else saved["config"]["tokenizer"]
    tokenizer = Tokenizer.load(name)
    if tokenizer.fingerprint != saved["tokenizer"]:
        raise UserError(f"{path} was made with another tokenizer: bring that one back, or {remedy}")
    return saved, tokenizer

def save_result(path, **result):
    """Writes the model's row of the ladder, last of all: where it exists, training is finished."""
    write(path, (json.dumps(result, indent=1) + "\n").encode())
    print("validation: {val_loss:.4f} nats per token, {val_bpb:.4f} bits per byte".format(**result))

# -----------------------------------------------------------------------------
# counting: which tokens follow which, and how often (same in both bigrams)

def count_pairs(ids, vocab_size, block=0):
    """
    ids (N,) -> keys (P,), counts (P,): a key is a pair that occurs, as now * V + next, ascending.
    In blocks, so that memory does not grow with the text, and small ones, which stay in the cache:
    340 million tokens a second on two cores, 4.5 times as fast as one bincount of everything.
    """
    ids = ids.cpu() if ids.is_mps else ids                   # mps lacks some sums of int64
    V, block = vocab_size, block or (1 << 15 if vocab_size <= 4096 else 1 << 22)
    blocks = zip(progress("pairs counted:", ids[:-1].split(block)), ids[1:].split(block))
    pairs = (now.long() * V + after for now, after in blocks)          # keys, (block,) at a time
    if V <= 4096:                                            # 134 MB at most
        dense = torch.zeros(V * V, dtype=torch.int64, device=ids.device)
        for keys in pairs:
            dense.scatter_add_(0, keys, torch.ones_like(keys))
        keys = dense.nonzero().flatten()
        return keys.cpu(), dense[keys].cpu()
    # V x V would not fit: count the keys in each block, then add up what the blocks share
    keys, counts = map(torch.cat, zip(*(block.unique(return_counts=True) for block in pairs)))
    keys, slot = keys.unique(return_inverse=True)            # slot: where in keys each is now
    return keys.cpu(), torch.zeros_like(keys).scatter_add_(0, slot, counts).cpu()

class Counted:
    """p(next | now) = (count(now, next) + a) / (count(now) + a V); stores only pairs that occur."""
    def __init__(self, keys, counts, vocab_size, prior=0.0):
        self.keys, self.counts, self.vocab_size = keys, counts, vocab_size
        self.rows = torch.zeros(vocab_size, dtype=torch.int64)         # (V,) count(now)
        self.rows.scatter_add_(0, keys // vocab_size, counts)
        self.prior = prior or self.leave_one_out()           # a

    def leave_one_out(self):
        """
        -> the a that best predicts each pair of the training text from all the others. (From a text
        that holds the pair itself, a = 0 would win.) Leaving it out takes 1 off its two counts: p =
        (c - 1 + a) / (r - 1 + a V). Equal counts give equal terms: there are few different ones.
        """
        a = torch.logspace(-5, 1, 601, dtype=torch.float64)[:, None]             # (601, 1) to try
        c, n_c = self.counts.unique(return_counts=True)      # n_c pairs occur c times
        r, n_r = self.rows[self.rows > 0].unique(return_counts=True)   # n_r tokens, r times each
        nats = (n_r * r * torch.log(r - 1 + a * self.vocab_size)).sum(1)
        nats -= (n_c * c * torch.log(c - 1 + a)).sum(1)      # (601,) -log p of the whole text
        return a[nats.argmin()].item()

    def log_probs(self, now, after):
        """(N,) ids, (N,) ids -> (N,) log p(after | now), float64"""
        key = now.long() * self.vocab_size + after
        # keys are sorted: key is at slot, or nowhere
        slot = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        count = torch.where(self.keys[slot] == key, self.counts[slot], 0).double()
        rows = self.rows[now.long()].double()
        return torch.log((count + self.prior) / (rows + self.prior * self.vocab_size))

    def loss(self, ids, block=1 << 22):
        """(M + 1,) ids -> nats per token, over all but the first: mean -log p(next | now)"""
        pairs = zip(progress("tokens evaluated:", ids[:-1].split(block)), ids[1:].split(block))
        return -sum(self.log_probs(*pair).sum() for pair in pairs).item() / (len(ids) - 1)

# -----------------------------------------------------------------------------
# sampling: one token at a time, each fed back in (same in every model)

def pick(logits, config, generator):
    """(V,) logits -> the next id"""
    if 0 < config.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(config.top_k).values[-1], -math.inf)
    if config.temperature > 0:
        # Gumbel-max trick: the largest of logits / T - log(-log(u)) is i with probability
        # softmax(logits / T)[i]. Here all times T; 10 us, where torch.multinomial takes 27
        u = torch.rand(len(logits), generator=generator)
        logits = logits.sub(u.log_().neg_().log_(), alpha=config.temperature)
    return logits.argmax().item()

def generate(reader, tokenizer, config, ids, generator):
    """
    Yields the text that follows ids, a str per token; ends at <|endoftext|>.
    reader: a function, (ids to read, list of those seen, which it extends) -> (V,) logits
    """
    # a token may end within a character: the decoder keeps that half until the rest comes
    decoder, seen = codecs.getincrementaldecoder("utf-8")("replace"), []
    for _ in range(config.max_new_tokens):
        new = pick(reader(ids, seen).cpu(), config, generator)
        if new == tokenizer.eot:
            return
        yield decoder.decode(tokenizer.pieces[new])
        ids = [new]

def speak(reader, tokenizer, config):
    """Prints config.num_samples continuations of config.prompt, token by token as they come."""
    if min(config.temperature, config.top_k, config.max_new_tokens, config.num_samples - 1) < 0:
        raise UserError("--temperature, --top-k and --max-new-tokens must be 0 or more, "
                        "--num-samples 1 or more")
    typed = config.prompt
    prompt = open(0, "rb", closefd=False).read() if typed == "-" else os.fsencode(typed)
    ids = tokenizer.encode((prompt or b"\n").decode("utf-8", "surrogateescape")).tolist()
    generator = torch.Generator().manual_seed(config.seed)   # on the cpu: the same text anywhere
    for n in range(config.num_samples):
        if n > 0:
            print("-" * 20)
        print(prompt.decode("utf-8", "replace"), end="")
        for text in generate(reader, tokenizer, config, ids, generator):
            print(text, end="", flush=True)
        print()

# -----------------------------------------------------------------------------
# train: count

@plainly
def train(config):
    """Config -> Counted, saved in out_dir/bigram_counts."""
    tokenizer, device = Tokenizer.load(config.tokenizer), pick_device(config.device)
    data, held_out, text = load_data(config, tokenizer, block_size=1)
    start, V = time.time(), tokenizer.vocab_size
    model = Counted(*count_pairs(data.to(device), V), V)
    seconds = time.time() - start
    loss, val_loss = model.loss(data), model.loss(held_out)
    n = len(model.keys)
    print(f"{n:,} of the {V:,} x {V:,} = {V * V:,} pairs occur, {n / V ** 2:.1%}")
    print(f"a = {model.prior:.4g}, chosen by leave-one-out, is added to each count | "
          f"{seconds:.2f} s")
    bpb = bits_per_byte(loss, data, tokenizer)
    print(f"training: {loss:.4f} nats per token, {bpb:.4f} bits per byte")
    at = functools.partial(os.path.join, config.out_dir, "bigram_counts")
    identity = dict(tokenizer=tokenizer.fingerprint, text=text)
    save(at("model.pt"), dict(identity, kind="bigram_counts", config=asdict(config),
                              keys=model.keys, counts=model.counts, prior=model.prior))
    save_result(at("result.json"), model="bigram, counted", parameters=V * V, val_loss=val_loss,
                val_bpb=bits_per_byte(val_loss, held_out, tokenizer), seconds=seconds, **identity)
    return model

# -----------------------------------------------------------------------------
# sample

@plainly
def sample(config):
    """Prints text drawn from the saved table."""
    path = os.path.join(config.out_dir, "bigram_counts", "model.pt")
    saved, tokenizer = load([path], "bigram_counts", config, "`python bigram_counts.py` makes one")
    model = Counted(saved["keys"], saved["counts"], tokenizer.vocab_size, saved["prior"])
    every = torch.arange(tokenizer.vocab_size)
    speak(lambda ids, seen: model.log_probs(torch.tensor(ids[-1]), every), tokenizer, config)

# -----------------------------------------------------------------------------
# tools: flags from a dataclass, progress, files, all cores (same in every script)

def parse(Config):
    """sys.argv -> Config: every field is a flag, and anything else is an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, argument_default=argparse.SUPPRESS)
    def fail(message):
        raise UserError(f"{message} ({parser.prog} --help lists the flags)")
    parser.error = fail
    parser.print_help = lambda: print(parser.format_help())  # its own hides a BrokenPipeError
    for f in fields(Config):
        default = "" if f.default in (False, "", -1) else f" (default: {f.default})"
        kind = (dict(action=argparse.BooleanOptionalAction) if f.type is bool else
                dict(type=f.type, metavar=f.type.__name__.upper()))
        name = "--" + f.name.replace("_", "-")
        parser.add_argument(name, help=f.metadata["help"] + default, **kind)
    if hasattr(sys.stdout, "reconfigure"):                   # each line at once, no character fails
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    typed = vars(parser.parse_args())
    for name, value in typed.items():
        if type(value) in (int, float) and not abs(value) < 1 << 63:   # nan and inf, too
            fail(f"--{name.replace('_', '-')} {value} is out of range")
    config = Config(**typed)
    config.typed = set(typed)                                # for given()
    return config

def given(config):
    """-> names of the fields that the user set: typed as flags, or, in Python, not the default"""
    changed = {f.name for f in fields(config) if getattr(config, f.name) != f.default}
    return getattr(config, "typed", changed)

def progress(what, items, power=1.0):
    """Yields the items; every 1.5 s prints how many are done, or how much, if they have a len."""
    sizes = [len(item) if hasattr(item, "__len__") else 1 for item in items]
    start = last = time.time()
    for n, item in zip(itertools.accumulate(sizes), items):
        yield item
        if time.time() - last > 1.5:
            last = time.time()
            eta = (last - start) * ((sum(sizes) / n) ** power - 1)     # time ~ n ** power
            print(f"{what} {n:,} of {sum(sizes):,} | eta {eta:.0f} s")

def write(path, data):
    """bytes -> file, by way of path.tmp: a kill leaves the old file or the new one, never half."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)

def spread(work, pieces):
    """Yields work(piece) for each, in order; 2 MB of text or more, on Linux, take up to 8 cores."""
    if sum(map(len, pieces)) < 1 << 21 or sys.platform != "linux" or threading.active_count() > 1:
        return (yield from map(work, pieces))                # fork is unsafe on macOS, with threads
    fork, cores = multiprocessing.get_context("fork"), min(8, len(os.sched_getaffinity(0)))
    pipes = []
    def child(core, pipe):                                   # forked: a copy, with all that is here
        os.closerange(3, pipe.fileno())                      # if the parent dies, send() fails
        with contextlib.suppress(Exception):
            for piece in pieces[core::cores]:                # every child takes its turns
                pipe.send(work(piece))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])   # Ctrl-C is for the parent
    for core in range(cores):
        out, into = fork.Pipe(duplex=False)
        fork.Process(target=child, args=[core, into], daemon=True).start()
        into.close()
        pipes.append(out)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for n, piece in enumerate(pieces):
        try:
            yield pipes[n % cores].recv()
        except (EOFError, OSError):                          # a child was killed, or work() raised
            yield work(piece)                                # do it here, where an error is seen

# -----------------------------------------------------------------------------
# main

@plainly
def main():
    config = parse(Config)
    work = sample if config.sample else train
    work(config)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # in a notebook: argv is Jupyter's
        print('type  train(Config(input="input.txt", tokenizer="bytes"))\n'
              'then  sample(Config(prompt="ROMEO:"))')
    else:
        main()
