# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "regex"]
# ///
"""
bigram_counts.py: the simplest language model, by counting.

    python bigram_counts.py                              # count the pairs of tokens in input.txt
    python bigram_counts.py --sample --prompt "ROMEO:"   # speak

How likely is each token after each other one? Count every pair of neighbours in the training text,
add a little to every count (what was never seen is not impossible), divide by the row's sum:

    p(next | now) = (count(now, next) + a) / (count(now) + a V)

One token of context is little, and yet the text it makes has the letter-feel of the original.
bigram_nn.py learns the same table by gradient descent, gpt.py looks at more than one token.
"""
import argparse, builtins, codecs, contextlib, functools, glob, hashlib, io, itertools, json, math
import multiprocessing, os, re, signal, sys, threading, time, warnings, zipfile
from array import array
from dataclasses import asdict, dataclass, field, fields

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")     # torch, without it
try:
    import regex, torch
except ImportError as missing:
    sys.exit(f"error: {missing}: `bash run.sh` installs it, as does `pip install regex torch`")
except KeyboardInterrupt:                                    # it takes a second
    sys.exit(130)

# -----------------------------------------------------------------------------
# frame: a setting is a flag, an error is a line (same in every script)

def flag(default, help):
    return field(default=default, metadata={"help": help})

class UserError(Exception):
    """What the user or the world did, in one line that says what to do."""

def out_of_memory(error):
    return re.search("MemoryError|(out of|not enough|allocate) memory", repr(error))

def plainly(function):
    """A user's error is a line on stderr and exit status 1, in a notebook the line. Bugs raise."""
    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except BrokenPipeError:                              # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status, message = 0, ""
        except KeyboardInterrupt:
            status, message = 130, "interrupted\n"
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
    tokenizer: str = flag("out/tokenizer.json", "saved tokenizer; bytes: 256 ids, no file needed")
    out_dir: str = flag("out", "folder for what this script makes, in bigram_counts/ there")
    seed: int = flag(1337, "same seed, same samples")
    device: str = flag("auto", "cpu, cuda or mps; auto: the fastest there is")
    sample: bool = flag(False, "speak, with the saved model, instead of training")
    prompt: str = flag("", "text to go on from (- reads stdin); empty: a new line")
    num_samples: int = flag(1, "how many samples")
    max_new_tokens: int = flag(200, "tokens per sample, at the most")
    temperature: float = flag(1.0, "below 1 more certain, above 1 more daring, 0 the likeliest")
    top_k: int = flag(0, "choose among the k likeliest tokens; 0: among all")

# -----------------------------------------------------------------------------
# tokenizer: text -> chunks -> bytes -> ids, and back (same in every script)

EOT = "<|endoftext|>"                                        # the last id, between documents
SPLIT = "|".join((                                           # GPT-4's; the first that matches wins:
    r"'(?i:[sdmt]|ll|ve|re)",                                # English endings: it's, I'd, they've
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",                            # letters, one blank or sign before
    r"\p{N}{1,3}",                                           # digits, three at most
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",                           # signs, with space and line ends
    r"\s*[\r\n]",                                            # blanks up to the last line end
    r"\s+(?!\S)",                                            # blanks, less the one before a word
    r"\s+"))                                                 # a blank before a digit
# the same for ASCII alone, of which `re` takes half the time that `regex` does
ASCII = re.compile(r"'(?i:[sdmt]|ll|ve|re)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}"
                   r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", re.ASCII)
SEAM = r"(?<=\S)(?= )|(?<=\n)(?=\S)|\Z"                     # no chunk of SPLIT crosses these
NO_MERGE = chr(sys.maxunicode)                               # sorts behind every token

def blocks(text, size, pattern=SPLIT):
    """str -> pieces of about that size, cut where SPLIT cuts too; of another pattern one piece."""
    most = size if pattern == SPLIT else ""                  # "": without end
    return (m.group() for m in re.finditer(f"(?s).{{1,{most}}}.*?(?:{SEAM})", text))

def checksum(saved):
    """What JSON can hold -> 16 hex digits that tell it from any other."""
    return hashlib.sha256(json.dumps(saved).encode()).hexdigest()[:16]

class Tokenizer:
    """
    Byte-level BPE. Ids: 0-255 the bytes, then one for each merge (a list of pairs of ids, in the
    order learned), last <|endoftext|>. pattern: the regex that splits text into chunks. Inside, a
    token is the character chr(id), a chunk a str of them: str.replace does a merge everywhere.
    """
    def __init__(self, merges, pattern=SPLIT, fingerprint="bytes"):
        self.merges, self.pattern, self.fingerprint = merges, pattern, fingerprint
        self.pieces = [bytes([b]) for b in range(256)]       # id -> bytes
        for left, right in merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.pieces.append(EOT.encode())
        self.eot, self.vocab_size = len(self.pieces) - 1, len(self.pieces)
        self.typecode = "H" if self.vocab_size <= 1 << 16 else "I"     # 2 bytes an id, or 4
        self.pair = {chr(256 + n): chr(left) + chr(right) for n, (left, right) in enumerate(merges)}
        self.merged = {tuple(pair): token for token, pair in self.pair.items()}
        self.tokens = functools.lru_cache(1 << 20)(self._tokens)       # a text repeats its chunks
        self.regex = regex.compile(pattern)

    def chunks(self, text):
        """str -> lists of chunks; joined, they are the text."""
        if self.pattern == SPLIT:
            for block in blocks(text, 1 << 13):              # 25% faster than 1 << 20: cached
                yield (ASCII if block.isascii() else self.regex).findall(block)
        else:
            end = 0
            for match in self.regex.finditer(text):
                yield [text[end:match.start()], match.group()]         # what it leaves out, too
                end = match.end()
            yield [text[end:]]

    def _tokens(self, chunk):
        """str -> str of tokens: the first learned of the merges there can be, repeatedly."""
        word = chunk.encode("utf-8", "surrogateescape").decode("latin-1")      # a character a byte
        if len(word) > 500:                                  # all in turn: not days a megabyte
            for new, pair in self.pair.items():
                word = word.replace(pair, new)
        word, get = ["", *word, ""], self.merged.get         # an end merges with nothing
        makes = [*map(get, zip(word, word[1:]), itertools.repeat(NO_MERGE))]   # of each pair
        while (new := min(makes)) != NO_MERGE:
            n = makes.index(new)                             # the pair is word[n], word[n + 1]
            word[n:n + 2] = [new]
            before, after = (word[n - 1], new), (new, word[n + 1])
            makes[n - 1:n + 2] = get(before, NO_MERGE), get(after, NO_MERGE)
        return "".join(word)

    def encode(self, text, allowed_special=()):
        """str -> array of ids. "<|endoftext|>" in it is ordinary text, unless allowed by name."""
        ids = array(self.typecode)
        codec = f"utf-{8 * ids.itemsize}-{sys.byteorder[0]}e"          # a str of tokens is its ids
        for n, part in enumerate(text.split(EOT) if EOT in allowed_special else [text]):
            ids.extend([self.eot] if n else [])
            for chunks in self.chunks(part):
                ids.frombytes("".join(map(self.tokens, chunks)).encode(codec, "surrogatepass"))
        return ids

    @classmethod
    def load(cls, path):
        """-> the tokenizer that bpe.py saved at path; for "bytes" one without merges"""
        if path == "bytes":
            return cls([])
        remedy = "`python bpe.py` trains one; or --tokenizer bytes"
        if not os.path.exists(path):
            raise UserError(f"{path} is not there: {remedy}")
        with open(path, "rb") as f:
            text = f.read()
        try:
            saved = json.loads(text)
            fingerprint = saved["model"].pop("fingerprint")
            if fingerprint != checksum(saved):
                raise ValueError
        except Exception:                                    # whatever JSON may hold
            raise UserError(f"{path} is damaged, or not written by bpe.py: {remedy}") from None
        ids, splitter = saved["model"]["vocab"], saved["pre_tokenizer"]["pretokenizers"][0]
        merges = [tuple(map(ids.get, merge.split(" "))) for merge in saved["model"]["merges"]]
        return cls(merges, splitter["pattern"]["Regex"], fingerprint)

# -----------------------------------------------------------------------------
# text: a file, a folder or a glob -> documents -> training and validation (same in every script)

def find(source):
    """A file, a glob or a folder (all files below it but hidden ones) -> sorted list of paths"""
    paths = [source] if os.path.exists(source) else glob.glob(source, recursive=True)
    if os.path.isdir(source):
        paths = (os.path.join(at, name) for at, _, names in os.walk(source) for name in names)
        paths = [path for path in paths if f"{os.sep}." not in os.sep + path[len(source):]]
    return sorted(filter(os.path.isfile, paths))

def read(source):
    """-> list of str, a text for each file that find(source) gives"""
    texts = []
    for path in find(source):
        with open(path, "rb") as f:                          # bytes: no line end is translated
            texts.append(f.read().decode("utf-8", "surrogateescape"))
    if not any(texts):
        raise UserError(f"no text in {source}: --input takes a file, a folder or a glob, "
                        f"and `bash run.sh` fetches a text")
    return list(filter(None, texts))

def split(texts):
    """list of str -> training, validation: the last 10% of the characters. No model sees those."""
    cut, train, val = int(0.9 * sum(map(len, texts))), [], []
    for text in texts:
        if cut >= 0:
            train.append(text[:cut])
        if cut < len(text):
            val.append(text[max(cut, 0):])
        cut -= len(text)
    return train, val

# -----------------------------------------------------------------------------
# data: text -> ids, and the files that models are kept in (same in every model)

def pick_device(name):
    if name == "auto":
        gpu = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else gpu
    try:
        torch.empty(1, device=name).item()
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no --device {name}: auto takes the fastest there is") from None

def to_ids(tokenizer, texts):
    """list of str -> (N,) int32; documents are joined by <|endoftext|> as an id, never as text."""
    texts = [[*blocks(text, 1 << 18, tokenizer.pattern)] for text in texts]
    parts, ids = [*itertools.chain(*texts)], array(tokenizer.typecode)
    encoded = zip(progress("characters tokenised:", parts), spread(tokenizer.encode, parts))
    for text in texts:
        for _, new in itertools.islice(encoded, len(text)):
            ids.extend(new)
        ids.append(tokenizer.eot)
    dtype = torch.uint16 if ids.itemsize == 2 else torch.int32
    return torch.frombuffer(ids, dtype=dtype).int()[:-1]     # none ends after the last

def load_data(config, tokenizer, block_size):
    """-> training ids (N,), their last and all validation ids (1 + M,), the text's checksum"""
    texts = read(config.input)
    data, held_out = (to_ids(tokenizer, part) for part in split(texts))
    if len(data) <= block_size or not len(held_out):
        raise UserError(f"{config.input} is too short: {len(data)} tokens to train on, "
                        f"and a context with the token after it has {block_size + 1}")
    print(f"{config.input}: {len(data):,} tokens to train on, {len(held_out):,} for validation")
    return data, torch.cat((data[-1:], held_out)), checksum(texts)

def bits_per_byte(loss, ids, tokenizer):
    """Nats per token over all ids but the first -> bits per byte of their text: comparable."""
    sizes = torch.tensor([*map(len, tokenizer.pieces[:-1]), 0])        # <|endoftext|> is no text
    n_bytes = max(1, sizes[ids[1:].long().cpu()].sum().item())
    return loss * (len(ids) - 1) / math.log(2) / n_bytes

def save(path, saved):
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    write(path, buffer.getbuffer())

def load(paths, kind, config, remedy):
    """-> the dict saved at the first path that is whole, its tokenizer; UserError: nothing fits"""
    for path in paths:
        try:
            with zipfile.ZipFile(path) as whole, warnings.catch_warnings(record=True):
                saved = torch.load(path, map_location="cpu", weights_only=True)
                if saved["kind"] == kind and not whole.testzip():      # torch checks no checksums
                    break
        except PermissionError:
            raise
        except Exception:                                    # whatever a damaged file makes of it:
            pass                                             # the next one, perhaps
    else:
        what = "is damaged" if any(map(os.path.exists, paths)) else "is not there"
        raise UserError(f"{paths[0]} {what}: {remedy}")
    if path != paths[0]:
        print(f"{paths[0]} is damaged or not there: taking {path}", file=sys.stderr)
    known = {f.name for f in fields(Config)}                 # another version may have had others
    saved["config"] = {k: value for k, value in saved["config"].items() if k in known}
    name = config.tokenizer if "tokenizer" in given(config) else saved["config"]["tokenizer"]
    tokenizer = Tokenizer.load(name)
    if tokenizer.fingerprint != saved["tokenizer"]:
        raise UserError(f"{path} was made with another tokenizer: bring that one back, or {remedy}")
    return saved, tokenizer

def save_result(path, **result):
    """The model's row of the ladder, written last: where it is, the model is finished."""
    write(path, (json.dumps(result, indent=1) + "\n").encode())
    print("validation: {val_loss:.4f} nats per token, {val_bpb:.4f} bits per byte".format(**result))

# -----------------------------------------------------------------------------
# counting: which tokens follow which, and how often (same in both bigrams)

def count_pairs(ids, vocab_size, block=0):
    """
    (N,) ids -> the pairs that occur, as now * V + next, ascending (P,), and how often they do (P,).
    In blocks, so that memory does not grow with the text, and in small ones, which stay in the
    cache: 340 million tokens a second on two cores, 4.5 times one bincount of all.
    """
    V, block = vocab_size, block or (1 << 15 if vocab_size <= 4096 else 1 << 22)
    blocks = zip(progress("pairs counted:", ids[:-1].split(block)), ids[1:].split(block))
    pairs = (now.long() * V + after for now, after in blocks)
    if V <= 4096:
        dense = torch.zeros(V * V, dtype=torch.int64, device=ids.device)
        for keys in pairs:
            dense.scatter_add_(0, keys, torch.ones_like(keys))
        keys = dense.nonzero().flatten()
        return keys.cpu(), dense[keys].cpu()
    # V x V would not fit: of each block what occurs, then all of those together
    keys, counts = map(torch.cat, zip(*(block.unique(return_counts=True) for block in pairs)))
    keys, slot = keys.unique(return_inverse=True)
    return keys.cpu(), torch.zeros_like(keys).scatter_add_(0, slot, counts).cpu()

class Counted:
    """p(next | now) = (count(now, next) + a) / (count(now) + a V); takes memory for what occurs."""
    def __init__(self, keys, counts, vocab_size, prior=0.0):
        self.keys, self.counts, self.vocab_size = keys, counts, vocab_size
        self.rows = torch.zeros(vocab_size, dtype=torch.int64)         # (V,) how often it is `now`
        self.rows.scatter_add_(0, keys // vocab_size, counts)
        self.prior = prior or self.leave_one_out()

    def leave_one_out(self):
        """-> the a with which all other pairs of the training text predict each one best."""
        a = torch.logspace(-5, 1, 601, dtype=torch.float64)[:, None]
        c, n_c = self.counts.unique(return_counts=True)          # n_c pairs occur c times
        r, n_r = self.rows[self.rows > 0].unique(return_counts=True)
        nats = (n_r * r * torch.log(r - 1 + a * self.vocab_size)).sum(1)
        nats -= (n_c * c * torch.log(c - 1 + a)).sum(1)      # (601,) for each a, of all pairs
        return a[nats.argmin()].item()

    def log_probs(self, now, after):
        """(N,) ids, (N,) ids -> (N,) log p(after | now), float64"""
        key = now.long() * self.vocab_size + after
        slot = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        count = torch.where(self.keys[slot] == key, self.counts[slot], 0).double()
        rows = self.rows[now.long()].double()
        return torch.log((count + self.prior) / (rows + self.prior * self.vocab_size))

    def loss(self, ids, block=1 << 22):
        """(M + 1,) ids -> nats per token over all but the first"""
        pairs = zip(progress("tokens evaluated:", ids[:-1].split(block)), ids[1:].split(block))
        return -sum(self.log_probs(*pair).sum() for pair in pairs).item() / (len(ids) - 1)

# -----------------------------------------------------------------------------
# sampling: one token at a time, each fed back in (same in every model)

def pick(logits, config, generator):
    """(V,) logits -> the next id"""
    if 0 < config.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(config.top_k).values[-1], -math.inf)
    if config.temperature > 0:
        # the largest of logits / T - log(-log(u)) is i with probability softmax(logits / T)[i]: the
        # Gumbel-max trick, 10 us where torch.multinomial takes 27
        u = torch.rand(len(logits), generator=generator)
        logits = logits.sub(u.log_().neg_().log_(), alpha=config.temperature)
    return logits.argmax().item()

def generate(reader, tokenizer, config, ids, generator):
    """
    Yields the text that follows ids, a str per token, no half characters; ends at <|endoftext|>.
    reader: a function, (ids to read, list of those seen, which it extends) -> (V,) logits
    """
    decoder, seen = codecs.getincrementaldecoder("utf-8")("replace"), []
    for _ in range(config.max_new_tokens):
        new = pick(reader(ids, seen).cpu(), config, generator)
        if new == tokenizer.eot:
            return
        yield decoder.decode(tokenizer.pieces[new])
        ids = [new]

def speak(reader, tokenizer, config):
    """Prints config.num_samples continuations of config.prompt, as they form."""
    if min(config.temperature, config.top_k, config.max_new_tokens, config.num_samples - 1) < 0:
        raise UserError("--temperature, --top-k, --max-new-tokens are at least 0, --num-samples 1")
    prompt = sys.stdin.buffer.read() if config.prompt == "-" else os.fsencode(config.prompt)
    ids = tokenizer.encode((prompt or b"\n").decode("utf-8", "surrogateescape")).tolist()
    generator = torch.Generator().manual_seed(config.seed)   # on the cpu: the same text anywhere
    for n in range(config.num_samples):
        print("-" * 20 + "\n" if n else "", prompt.decode("utf-8", "replace"), sep="", end="")
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
    seconds, loss, val_loss = time.time() - start, model.loss(data), model.loss(held_out)
    n = len(model.keys)
    print(f"{n:,} of the {V:,} x {V:,} = {V * V:,} pairs occur, {n / V ** 2:.1%}")
    print(f"a = {model.prior:.4g} is added to each count, by leave-one-out | {seconds:.2f} s")
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
    """Speaks with the saved table."""
    path = os.path.join(config.out_dir, "bigram_counts", "model.pt")
    saved, tokenizer = load([path], "bigram_counts", config, "`python bigram_counts.py` makes one")
    model = Counted(saved["keys"], saved["counts"], tokenizer.vocab_size, saved["prior"])
    every = torch.arange(tokenizer.vocab_size)
    speak(lambda ids, seen: model.log_probs(torch.tensor(ids[-1]), every), tokenizer, config)

# -----------------------------------------------------------------------------
# tools: flags from a dataclass, progress, files, all cores (same in every script)
def parse(Config):
    """sys.argv -> Config: every field is a flag, and what is not a field is an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, argument_default=argparse.SUPPRESS)
    def fail(message):
        raise UserError(f"{message} ({parser.prog} --help lists the flags)")
    parser.error = fail
    parser.print_help = lambda: print(parser.format_help())  # argparse's own is deaf to `| head`
    for f in fields(Config):
        default = "" if f.default in (False, "", -1) else f" (default: {f.default})"
        kind = (dict(action=argparse.BooleanOptionalAction) if f.type is bool else
                dict(type=f.type, metavar=f.type.__name__.upper()))
        name = "--" + f.name.replace("_", "-")
        parser.add_argument(name, help=f.metadata["help"] + default, **kind)
    if hasattr(sys.stdout, "reconfigure"):                   # each line at once, whatever it holds
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    typed = vars(parser.parse_args())
    for name, value in typed.items():
        if type(value) in (int, float) and not abs(value) < 1 << 63:
            fail(f"--{name.replace('_', '-')} {value} is no number to work with")
    config = Config(**typed)
    config.typed = set(typed)
    return config

def given(config):
    """-> the names of the fields that were typed; of a Config made by hand, those not at default"""
    changed = {f.name for f in fields(config) if getattr(config, f.name) != f.default}
    return getattr(config, "typed", changed)

def progress(what, items, power=1.0):
    """Yields the items; every 1.5 s a line says how many are done, of texts, tensors how much."""
    sizes = [len(item) if hasattr(item, "__len__") else 1 for item in items]
    start = last = time.time()
    for n, item in zip(itertools.accumulate(sizes), items):
        yield item
        if time.time() - last > 1.5:
            last = time.time()
            eta = (last - start) * ((sum(sizes) / n) ** power - 1)     # time goes as n ** power
            print(f"{what} {n:,} of {sum(sizes):,} | eta {eta:.0f} s")

def write(path, data):
    """bytes -> file, beside it first, synced, then renamed: a kill leaves the old or the new."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)

def spread(work, pieces):
    """Yields work(piece) for each, in order; for some MB of text in processes, as many as cores."""
    if sum(map(len, pieces)) < 1 << 21 or sys.platform != "linux" or threading.active_count() > 1:
        return (yield from map(work, pieces))                # forks are unsafe on macOS, in threads
    fork, cores = multiprocessing.get_context("fork"), min(8, len(os.sched_getaffinity(0)))
    some = 1 + len(pieces) // 100
    parts, pipes = [pieces[n:n + some] for n in range(0, len(pieces), some)], []
    def child(core, pipe):                                   # a copy of this process and all it has
        signal.signal(signal.SIGINT, signal.SIG_IGN)         # Ctrl-C is for the first process
        os.closerange(3, pipe.fileno())                      # if that one ends, sending fails
        with contextlib.suppress(Exception):
            for part in parts[core::cores]:
                pipe.send([*map(work, part)])
    for core in range(cores):
        out, into = fork.Pipe(duplex=False)
        fork.Process(target=child, args=[core, into], daemon=True).start()
        into.close()
        pipes.append(out)
    for n, part in enumerate(parts):
        try:
            results = pipes[n % cores].recv()
        except EOFError:                                     # it was killed, or work() raised
            results = map(work, part)
        yield from results

# -----------------------------------------------------------------------------
# main

@plainly
def main():
    config = parse(Config)
    sample(config) if config.sample else train(config)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # pasted into a notebook: not our argv
        print('type  train(Config(input="input.txt"))  and then  sample(Config(prompt="ROMEO:"))')
    else:
        main()
