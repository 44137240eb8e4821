# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "regex"]
# ///
"""
bigram_nn.py: the model of bigram_counts.py again, learned by gradient descent.

    python bigram_nn.py                                  # a table of logits, V x V: the counts, learned
    python bigram_nn.py --n-embd 64                      # each token a vector of 64 numbers: better than the counts
    python bigram_nn.py --sample --prompt "ROMEO:"       # speak
    python bigram_nn.py --plot                           # see the pairs, counted and learned

Dataset, DataLoader, a network, a loss, AdamW, a loop: all of gpt.py but its architecture. Both bigrams
have one optimum. The loss per token is -log p(next | now), whose minimum over a table is the share of
the counts; and what adding `a` to each count is to the one, the prior, a times -log p of every pair
there can be, is to the other. With --n-embd tokens that are followed alike get vectors alike, so what
is learned of one serves the other: fewer numbers than the table, and a better prediction.
"""
import argparse, builtins, codecs, functools, glob, hashlib, io, itertools, json, math, os
import pickle, re, sys, time, warnings, zlib
from array import array
from dataclasses import asdict, dataclass, field, fields, replace

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")           # torch, where it is not
try:
    import regex, torch
except ImportError as missing:
    sys.exit(f"error: {missing}: `bash run.sh` sets up what is needed, as does `pip install regex torch`")
from torch import nn
from torch.utils.data import DataLoader, Dataset

# -----------------------------------------------------------------------------
# frame: a dataclass becomes flags, an error one line, a file whole or not there (same in every script)

def flag(default, help):
    return field(default=default, metadata={"help": help})

class UserError(Exception):
    """What the user or the world did, in one line that says what to do."""

def plainly(function):
    """A user's error is a line on stderr and exit status 1, in a notebook just the line. Bugs still raise."""
    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            try:
                return function(*args, **kwargs)
            finally:                                         # --help leaves by an exception, too
                sys.stdout.flush()
        except BrokenPipeError:                              # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status, message = 0, ""
        except KeyboardInterrupt:
            status, message = 130, "interrupted\n"
        except (UserError, OSError) as error:
            status, message = 1, f"error: {error}\n"
        print(message, end="", file=sys.stderr, flush=True)
        if not hasattr(builtins, "__IPYTHON__"):
            sys.exit(status)
    return run

def parse(Config):
    """sys.argv -> Config: every field is a flag, and what is not a field is an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, argument_default=argparse.SUPPRESS)
    def fail(message):
        raise UserError(f"{message} ({parser.prog} --help lists the flags)")
    parser.error = fail
    for f in fields(Config):
        default = "" if f.default in (False, "", -1) else f" (default: {f.default})"
        kind = dict(type=f.type, metavar=f.type.__name__.upper())
        parser.add_argument("--" + f.name.replace("_", "-"),
                            help=(f.metadata["help"] + default).replace("%", "%%"),
                            **dict(action=argparse.BooleanOptionalAction) if f.type is bool else kind)
    if hasattr(sys.stdout, "reconfigure"):                   # lines appear at once, whatever they hold
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    typed = vars(parser.parse_args())
    for name, value in typed.items():
        if type(value) in (int, float) and not abs(value) < 1 << 63:
            fail(f"--{name.replace('_', '-')} {value} is no number to work with")
    config = Config(**typed)
    config.typed = set(typed)
    return config

def given(config):
    """The names of the fields that were typed; of a Config made by hand, those not at their default."""
    changed = {f.name for f in fields(config) if getattr(config, f.name) != f.default}
    return getattr(config, "typed", changed)

def progress(what, total, power=1.0):
    """-> a function to call with n when n are done; prints a line every 1.5 s. Time goes as n ** power."""
    start = last = time.time()
    def done(n):
        nonlocal last
        if time.time() - last > 1.5:
            last = time.time()
            eta = (last - start) * ((total / n) ** power - 1)
            print(f"{what} {n:,} of {total:,} | eta {eta:.0f} s", flush=True)
    return done

def write(path, data):
    """bytes -> file, beside it first, synced, then renamed: a kill leaves the old file or the new one."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)

# -----------------------------------------------------------------------------
# tokenizer: text -> chunks -> bytes -> ids, and back (same in every script)

EOT = "<|endoftext|>"                                        # the last id, between documents
SPLIT = "|".join((                                           # GPT-4's; the first clause that matches wins:
    r"'(?i:[sdmt]|ll|ve|re)",                                # English endings: it's, I'd, they've
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",                            # letters, with one blank or sign before
    r"\p{N}{1,3}",                                           # digits, three at most
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",                           # signs, a space before, line ends after
    r"\s*[\r\n]",                                            # blanks up to the last line end
    r"\s+(?!\S)",                                            # blanks, less the one before a word
    r"\s+"))                                                 # a blank before a digit
ASCII = {r"\p{L}+": "[A-Za-z]+", r"\p{N}{": "[0-9]{", r"\p{L}": "A-Za-z", r"\p{N}": "0-9", "?+": "?", "++": "+"}
SEAM = re.compile(r"(?<=\S)(?= )|(?<=\n)(?=\S)")             # no chunk of this split crosses these places
NO_MERGE = chr(sys.maxunicode)                               # sorts behind every token

def blocks(text, size):
    """str -> pieces of about that size, cut where GPT-4's split cuts too."""
    start = 0
    while start < len(text):
        seam = SEAM.search(text, start + size)
        end = seam.start() if seam else len(text)
        yield text[start:end]
        start = end

def checksum(saved):
    """What JSON can hold -> 16 hex digits that tell it from any other."""
    return hashlib.sha256(json.dumps(saved).encode()).hexdigest()[:16]

class Tokenizer:
    """
    Byte-level BPE. Ids: 0-255 the bytes, then one for each merge (a list of pairs of ids, in the order
    learned), last <|endoftext|>. pattern: the regex that splits text into chunks. Inside, a token is
    the character chr(id) and a chunk a str of them, so that one merge is one str.replace.
    """
    def __init__(self, merges, pattern=SPLIT):
        self.merges, self.pattern, self.fingerprint = merges, pattern, "bytes"
        self.pieces = [bytes([b]) for b in range(256)]       # id -> bytes
        for left, right in merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.eot = len(self.pieces)
        self.pieces.append(EOT.encode())
        self.vocab_size = len(self.pieces)
        self.typecode, bits = ("H", 16) if self.vocab_size <= 1 << 16 else ("I", 32)
        self.codec = f"utf-{bits}-{sys.byteorder[0]}e"       # which makes a str of tokens an array of ids
        self.pair = {chr(256 + n): chr(left) + chr(right) for n, (left, right) in enumerate(merges)}
        self.merged = {tuple(pair): token for token, pair in self.pair.items()}
        self.tokens = functools.lru_cache(1 << 20)(self._tokens)       # a text repeats its chunks
        self.regex = regex.compile(pattern)
        self.ascii = re.compile(functools.reduce(lambda p, a: p.replace(a, ASCII[a]), ASCII, SPLIT), re.ASCII)

    def chunks(self, text):
        """str -> lists of chunks; joined, they are the text."""
        if self.pattern == SPLIT:
            for block in blocks(text, 1 << 13):              # 3/4 of the time of 1 << 20: cached, more ASCII
                yield (self.ascii if block.isascii() else self.regex).findall(block)      # `re` is faster
        else:
            end = 0
            for match in self.regex.finditer(text):
                yield [text[end:match.start()], match.group()]         # what it leaves out, too
                end = match.end()
            yield [text[end:]]

    def _tokens(self, chunk):
        """str -> str of tokens: of the merges that can be made the one learned first, again and again."""
        word = chunk.encode("utf-8", "surrogateescape").decode("latin-1")      # a character a byte
        if len(word) > 500:                                  # or all in turn: seconds a megabyte, not days
            for new, pair in self.pair.items():
                word = word.replace(pair, new)
            return word
        while len(word) > 1:
            new = min(map(self.merged.get, zip(word, word[1:]), itertools.repeat(NO_MERGE)))
            if new == NO_MERGE:
                break
            word = word.replace(self.pair[new], new)
        return word

    def encode(self, text, allowed_special=()):
        """str -> array of ids. "<|endoftext|>" in it is ordinary text, unless allowed by name."""
        ids = array(self.typecode)
        for n, part in enumerate(text.split(EOT) if EOT in allowed_special else [text]):
            ids.extend([self.eot] if n else [])
            for chunks in self.chunks(part):
                ids.frombytes("".join(map(self.tokens, chunks)).encode(self.codec, "surrogatepass"))
        return ids

    @classmethod
    def load(cls, path):
        """The tokenizer that bpe.py saved at path, with its own checksum; for "bytes" one without merges."""
        if path == "bytes":
            return cls([])
        try:
            with open(path, encoding="utf-8") as f:
                saved = json.load(f)
            fingerprint, ids = saved["model"].pop("fingerprint"), saved["model"]["vocab"]
            if fingerprint == checksum(saved):
                merges = [tuple(map(ids.get, merge.split(" "))) for merge in saved["model"]["merges"]]
                tokenizer = cls(merges, saved["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
                tokenizer.fingerprint = fingerprint
                return tokenizer
        except FileNotFoundError:
            raise UserError(f"no tokenizer at {path}: `python bpe.py` trains one, "
                            "`--tokenizer bytes` needs none") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        raise UserError(f"{path} is damaged, or not written by bpe.py: `python bpe.py` trains one anew")

# -----------------------------------------------------------------------------
# text: a file, a folder or a glob -> documents -> training and validation (same in every script)

def find(source):
    """A file, a glob or a folder (all files below it but hidden ones) -> sorted list of paths"""
    paths = [source] if os.path.exists(source) else glob.glob(source, recursive=True)
    if os.path.isdir(source):
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
        paths = [path for path in paths if f"{os.sep}." not in os.sep + path[len(source):]]
    return sorted(filter(os.path.isfile, paths))

def read(source):
    """-> list of str, a text for each file that find(source) gives"""
    texts = []
    for path in find(source):
        with open(path, "rb") as f:                          # bytes: no newline translated, none lost
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

def fingerprint(texts):
    """list of str -> 16 hex digits that tell one text from another."""
    digest = hashlib.sha256()
    for data in (text.encode("utf-8", "surrogateescape") for text in texts):
        digest.update(b"%d " % len(data) + data)
    return digest.hexdigest()[:16]

# -----------------------------------------------------------------------------
# config

@dataclass
class Config:
    input: str = flag("input.txt", "text to learn from: a file, a folder or a glob")
    tokenizer: str = flag("out/tokenizer.json", "saved tokenizer; bytes: 256 ids, no file needed")
    out_dir: str = flag("out", "folder for what this script makes, in bigram_nn/ or bigram_nn_{n_embd}/ there")
    seed: int = flag(1337, "same seed, same batches; same samples")
    device: str = flag("auto", "cpu, cuda or mps; auto: the fastest there is")
    # model
    n_embd: int = flag(0, "numbers that stand for a token; 0: a row of the V x V table")
    # training
    max_steps: int = flag(1000, "training steps")
    block_size: int = flag(64, "tokens in a row of the batch")
    batch_size: int = flag(64, "rows per step")
    lr: float = flag(0.1, "learning rate of the table, a tenth of it with --n-embd; it falls to zero")
    weight_decay: float = flag(0.1, "pull of the vectors towards zero; the table has its prior instead")
    # sampling
    sample: bool = flag(False, "speak, with the saved model, instead of training")
    prompt: str = flag("", "text to go on from (- reads stdin); empty: a new line")
    num_samples: int = flag(1, "how many samples")
    max_new_tokens: int = flag(200, "tokens per sample, at the most")
    temperature: float = flag(1.0, "below 1 more certain, above 1 more daring, 0 the likeliest")
    top_k: int = flag(0, "choose among the k likeliest tokens; 0: among all")
    # seeing
    plot: bool = flag(False, "draw the most frequent pairs, as counted and as learned")

# -----------------------------------------------------------------------------
# data: text -> ids, and the files that models are kept in (same in every model)

def pick_device(name):
    if name == "auto":
        gpu = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else gpu
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no --device {name} here: auto takes the fastest there is") from None

def to_ids(tokenizer, texts):
    """list of str -> (N,) int32; documents are joined by <|endoftext|> as an id, never as text."""
    ids, n_read, done = array("i"), 0, progress("characters tokenised:", sum(map(len, texts)))
    for n, text in enumerate(texts):
        ids.extend([tokenizer.eot] if n else [])
        for part in blocks(text, 1 << 18) if tokenizer.pattern == SPLIT else [text]:
            ids.extend(array("i", tokenizer.encode(part)))
            done(n_read := n_read + len(part))
    return torch.frombuffer(ids, dtype=torch.int32) if ids else torch.empty(0, dtype=torch.int32)

def load_data(config, tokenizer, block_size):
    """-> training ids (N,), the last of them and all validation ids (1 + M,), the text's fingerprint"""
    texts = read(config.input)
    data, held_out = (to_ids(tokenizer, part) for part in split(texts))
    if len(data) <= block_size or not len(held_out):
        raise UserError(f"{config.input} is too short: {len(data)} tokens to train on, "
                        f"and a context with the token after it has {block_size + 1}")
    print(f"{config.input}: {len(data):,} tokens to train on, {len(held_out):,} for validation")
    return data, torch.cat((data[-1:], held_out)), fingerprint(texts)

def bits_per_byte(loss, ids, tokenizer):
    """Nats per token over all ids but the first -> bits per byte of their text: compares all models."""
    sizes = torch.tensor([*map(len, tokenizer.pieces[:-1]), 0])        # <|endoftext|> is no text
    return loss * (len(ids) - 1) / math.log(2) / sizes[ids[1:].long().cpu()].sum().item()

def save(path, saved):
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    write(path, buffer.getbuffer())

def load(paths, kind, config, remedy):
    """-> the dict saved at the first path that is whole, its tokenizer. UserError: nothing fits together."""
    for path in paths:
        try:
            with warnings.catch_warnings(record=True):       # about files that are not ours
                saved = torch.load(path, map_location="cpu", weights_only=True)
            if type(saved) is dict and saved.get("kind") == kind:
                break
        except PermissionError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError):
            pass                                             # the next one, perhaps
    else:
        what = "is damaged" if any(map(os.path.exists, paths)) else "is not there"
        raise UserError(f"{paths[0]} {what}: {remedy}")
    if path != paths[0]:
        print(f"{paths[0]} is damaged or not there: taking {path}", file=sys.stderr)
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
# batches (same in bigram_nn.py and gpt.py)

class Batches(Dataset):
    """
    Item `step` is that step's whole batch, a pure function of (seed, step): a resumed run has no state
    to restore and replays nothing. Each epoch cuts the text into windows of block_size tokens, starting
    at another place, and shuffles them.
    """
    def __init__(self, ids, block_size, batch_size, seed):
        self.ids, self.block_size, self.batch_size, self.seed = ids, block_size, batch_size, seed
        self.n_windows = max(1, len(ids) // block_size - 1)
        self.starts = functools.lru_cache(2)(self._starts)

    def _starts(self, epoch):
        """-> (n_windows,) where the windows of this epoch begin, in the order in which they come"""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        room = min(self.block_size, len(self.ids) - self.n_windows * self.block_size)
        first = torch.randint(room, (1,), generator=generator)
        return first + self.block_size * torch.randperm(self.n_windows, generator=generator)

    def __getitem__(self, step):
        turns = range(step * self.batch_size, (step + 1) * self.batch_size)
        at = torch.stack([self.starts(turn // self.n_windows)[turn % self.n_windows] for turn in turns])
        rows = self.ids[at[:, None] + torch.arange(self.block_size + 1)].long()
        return rows[:, :-1], rows[:, 1:]                     # (B, T) tokens, (B, T) the tokens after them

def mix(seed, step):
    return zlib.crc32(f"{seed} {step}".encode())             # neighbouring steps, unrelated numbers

# -----------------------------------------------------------------------------
# counting: which tokens follow which, and how often (same in both bigrams)

def count_pairs(ids, vocab_size, block=0):
    """
    (N,) ids -> the pairs that occur, as now * V + next, ascending (P,), and how often each does (P,).
    Goes through the text in blocks, so that memory does not grow with it, and in small ones, which stay
    in the cache: 380 million tokens a second on two cores, five times one bincount of everything.
    """
    V, device = vocab_size, ids.device
    dense = torch.zeros(V * V if V <= 4096 else 0, dtype=torch.int64, device=device)
    keys = counts = torch.empty(0, dtype=torch.int64, device=device)
    block = block or (1 << 15 if len(dense) else 1 << 22)
    done = progress("pairs counted:", len(ids) - 1)
    for n, (now, after) in enumerate(zip(ids[:-1].split(block), ids[1:].split(block))):
        done(n * block + len(now))
        pairs = now.long() * V + after
        if len(dense):
            dense.scatter_add_(0, pairs, torch.ones_like(pairs))
        else:                                                # V x V would not fit: keep what occurs
            new_keys, new_counts = pairs.unique(return_counts=True)
            keys, slot = torch.cat((keys, new_keys)).unique(return_inverse=True)
            counts = torch.zeros_like(keys).scatter_add_(0, slot, torch.cat((counts, new_counts)))
    if len(dense):
        keys = dense.nonzero().flatten()
        counts = dense[keys]
    return keys.cpu(), counts.cpu()

class Counted:
    """p(next | now) = (count(now, next) + a) / (count(now) + a V); pairs that never occur take no memory."""
    def __init__(self, keys, counts, vocab_size, prior=0.0):
        self.keys, self.counts, self.vocab_size = keys, counts, vocab_size
        self.rows = torch.zeros(vocab_size, dtype=torch.int64)         # (V,) how often each token is `now`
        self.rows.scatter_add_(0, keys // vocab_size, counts)
        self.prior = prior or self.leave_one_out()

    def leave_one_out(self):
        """-> the a with which all other pairs of the training text predict each one best."""
        a = torch.logspace(-5, 1, 601, dtype=torch.float64)[:, None]
        c, n_c = self.counts.unique(return_counts=True)          # n_c pairs occur c times
        r, n_r = self.rows[self.rows > 0].unique(return_counts=True)
        pairs, rows = n_c * c * torch.log(c - 1 + a), n_r * r * torch.log(r - 1 + a * self.vocab_size)
        return a[(pairs.sum(1) - rows.sum(1)).argmax()].item()

    def log_probs(self, now, after):
        """(N,) ids, (N,) ids -> (N,) log p(after | now), float64"""
        key = now.long() * self.vocab_size + after
        slot = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        count = torch.where(self.keys[slot] == key, self.counts[slot], 0).double()
        rows = self.rows[now.long()].double()
        return torch.log((count + self.prior) / (rows + self.prior * self.vocab_size))

    def loss(self, ids, block=1 << 22):
        """(M + 1,) ids -> nats per token over all but the first"""
        parts, done = [], progress("tokens evaluated:", len(ids) - 1)
        for x, y in zip(ids[:-1].split(block), ids[1:].split(block)):
            parts.append(self.log_probs(x, y).sum())
            done(min(len(ids) - 1, len(parts) * block))
        return -sum(parts).item() / (len(ids) - 1)

# -----------------------------------------------------------------------------
# model: (B, T) ids -> (B, T, V) logits

class Bigram(nn.Module):
    """Row i of the table is the logits of what follows token i; with n_embd, a vector that they are computed from."""
    def __init__(self, vocab_size, n_embd):
        super().__init__()
        self.table = nn.Embedding(vocab_size, n_embd or vocab_size)
        self.head = nn.Linear(n_embd, vocab_size) if n_embd else nn.Identity()
        nn.init.normal_(self.table.weight, std=0.1 if n_embd else 0.0)        # 2.50 bits per byte, 2.51 with std 1

    def forward(self, idx, targets=None):
        """(B, T) ids -> (B, T, V) logits; with targets (B, T), the mean of their nats"""
        if targets is None:
            return self.head(self.table(idx))
        now, row = idx.unique(return_inverse=True)           # few of the B x T contexts differ: softmax each once
        log_p = self(now).log_softmax(-1)                    # (U, V)
        return -log_p[row, targets].mean()

# -----------------------------------------------------------------------------
# sampling: one token at a time, each fed back in (same in every model)

def pick(logits, config, generator):
    """(V,) logits -> the next id"""
    if config.temperature == 0:
        return logits.argmax().item()
    logits = (logits.double() - logits.max()) / config.temperature
    if 0 < config.top_k < len(logits):
        logits[logits < logits.topk(config.top_k).values[-1]] = -math.inf
    # a race that token i wins with probability p_i: 11 us where torch.multinomial takes 27
    chances = torch.rand(len(logits), dtype=torch.double, generator=generator)
    return (logits.softmax(0) / chances.log()).argmin().item()

def generate(reader, tokenizer, config, ids, generator):
    """
    Yields the text that follows ids, a str per token, never half a character; ends at <|endoftext|>.
    reader: a function that is fed the ids it has not seen and answers the next one's (V,) logits.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for _ in range(config.max_new_tokens):
        new = pick(reader(ids).cpu(), config, generator)
        if new == tokenizer.eot:
            return
        yield decoder.decode(tokenizer.pieces[new])
        ids = [new]

def speak(new_reader, tokenizer, config):
    """Prints config.num_samples continuations of config.prompt, as they form."""
    if min(config.temperature, config.top_k, config.max_new_tokens, config.num_samples - 1) < 0:
        raise UserError("--temperature, --top-k, --max-new-tokens are 0 or more, --num-samples 1 or more")
    prompt = config.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    ids = tokenizer.encode(prompt or "\n").tolist()
    generator = torch.Generator().manual_seed(config.seed)   # its own, on the cpu: same text anywhere
    for n in range(config.num_samples):
        print("-" * 20 + "\n" if n else "", end="")
        print(prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), end="", flush=True)
        for text in generate(new_reader(), tokenizer, config, ids, generator):
            print(text, end="", flush=True)
        print()

# -----------------------------------------------------------------------------
# train

def folder_of(config):
    return os.path.join(config.out_dir, f"bigram_nn_{config.n_embd}" if config.n_embd else "bigram_nn")

def evaluate(model, ids, block=1 << 12):
    """(M + 1,) ids -> nats per token over all but the first"""
    with torch.inference_mode():
        pairs = zip(ids[:-1].long().split(block), ids[1:].long().split(block))
        parts, done = [], progress("tokens evaluated:", len(ids) - 1)
        for now, after in pairs:
            parts.append(model(now, after).item() * len(now))
            done(min(len(ids) - 1, len(parts) * block))
    return sum(parts) / (len(ids) - 1)

@plainly
def train(config):
    """Config -> Bigram, saved in out_dir/bigram_nn or bigram_nn_{n_embd}, and compared to the counts."""
    tokenizer, device = Tokenizer.load(config.tokenizer), pick_device(config.device)
    V, folder = tokenizer.vocab_size, folder_of(config)
    if not config.n_embd and V > 16384:
        raise UserError(f"a table of {V:,} x {V:,} logits is too large: --n-embd 64 is not")
    if min(config.max_steps, config.block_size, config.batch_size) < 1:
        raise UserError("--max-steps, --block-size and --batch-size are 1 or more")
    if not (config.n_embd >= 0 and 0 <= config.lr <= 1e6 and 0 <= config.weight_decay <= 1e6):
        raise UserError("--n-embd, --lr and --weight-decay are 0 or more, and less than a million")
    data, held_out, text = load_data(config, tokenizer, config.block_size)

    torch.manual_seed(config.seed)
    model = Bigram(V, config.n_embd).to(device)
    lr, decay = (config.lr / 10, config.weight_decay) if config.n_embd else (config.lr, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=decay)
    counted = None if config.n_embd else Counted(*count_pairs(data.to(device), V), V)
    n_params = sum(p.numel() for p in model.parameters())
    step_tokens = config.batch_size * config.block_size
    print(f"{n_params:,} parameters | {device.type} | {config.max_steps:,} steps of {step_tokens:,} tokens, "
          f"{config.max_steps * step_tokens / len(data):.1f} times through the text")

    batches = Batches(data, config.block_size, config.batch_size, config.seed)
    loader = DataLoader(batches, batch_size=None, sampler=range(config.max_steps),
                        generator=torch.Generator())
    begin = shown = time.time()
    curve = ["step,loss,lr"]
    for step, (x, y) in enumerate(loader):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / config.max_steps)
        loss = nats = model(x.to(device), y.to(device))
        if counted:                                          # smoothing is a prior: its share of this token
            nats = loss - counted.prior / (len(data) - 1) * model.table.weight.log_softmax(-1).sum()
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
        curve.append(f"{step},{loss.item():.6f},{optimizer.param_groups[0]['lr']:.6g}")
        if time.time() - shown > 2 or step + 1 == config.max_steps:
            shown, pace = time.time(), (time.time() - begin) / (step + 1)
            left = time.strftime("%H:%M:%S", time.gmtime(pace * (config.max_steps - step - 1)))
            print(f"step {step + 1:>6}/{config.max_steps} | loss {loss.item():.4f} | {1000 * pace:.1f} ms | "
                  f"{step_tokens / pace:,.0f} tok/s | eta {left}")
    seconds, model = time.time() - begin, model.cpu().requires_grad_(False)

    loss, val_loss = evaluate(model, data), evaluate(model, held_out)
    if not math.isfinite(loss + val_loss):
        raise UserError("the loss is not finite, and nothing is saved: lower --lr")
    print(f"training: {loss:.4f} nats per token, {bits_per_byte(loss, data, tokenizer):.4f} bits per byte")
    if counted:
        print(f"counted: {counted.loss(held_out):.4f} nats per token of the validation text, learned: "
              f"{val_loss:.4f}; {total_variation(model, counted):.1%} of the probability lies elsewhere")
    identity = dict(tokenizer=tokenizer.fingerprint, text=text)
    write(os.path.join(folder, "metrics.csv"), "\n".join([*curve, ""]).encode())
    save(os.path.join(folder, "model.pt"), dict(identity, kind="bigram_nn", config=asdict(config),
                                                weights=model.state_dict()))
    name = f"bigram, n_embd {config.n_embd}" if config.n_embd else "bigram, learned"
    save_result(os.path.join(folder, "result.json"), model=name, parameters=n_params, val_loss=val_loss,
                val_bpb=bits_per_byte(val_loss, held_out, tokenizer), seconds=seconds, **identity)
    return model

def total_variation(model, counted):
    """The share of probability that the two put on different tokens, each row as often as it occurs."""
    every, apart, done = torch.arange(counted.vocab_size), [], progress("rows compared:", counted.vocab_size)
    for now in every:
        p, q = model(now).softmax(-1), counted.log_probs(now.expand_as(every), every).exp()
        apart.append((p - q).abs().sum() / 2)
        done(len(apart))
    return (torch.stack(apart) * counted.rows).sum().item() / counted.rows.sum().item()

# -----------------------------------------------------------------------------
# sample

def trained(config):
    """-> the saved model, its tokenizer, and the dict that it was saved in"""
    saved, tokenizer = load([os.path.join(folder_of(config), "model.pt")], "bigram_nn", config,
                            "`python bigram_nn.py` trains one")
    model = Bigram(tokenizer.vocab_size, saved["config"]["n_embd"]).requires_grad_(False)
    model.load_state_dict(saved["weights"])
    return model, tokenizer, saved

@plainly
def sample(config):
    """Speaks with the saved model."""
    model, tokenizer, _ = trained(config)
    speak(lambda: lambda ids: model(torch.tensor(ids[-1])), tokenizer, config)

# -----------------------------------------------------------------------------
# see: what makes things visible (same in bigram_nn.py and gpt.py)

def visible(piece):
    """bytes -> str in which all can be seen: blanks as · ↵ →, what no terminal prints as \\x00."""
    text = piece.decode("utf-8", "backslashreplace").translate({32: "·", 10: "↵", 9: "→"})
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

def picture(path, draw, *what):
    """draw(figure, *what) -> PNG; a notebook shows it, too."""
    try:
        from matplotlib.figure import Figure                 # not pyplot: no window, no state
    except ImportError:
        return print("no picture: `pip install matplotlib` gets what draws it")
    print(f"drawing {path}", flush=True)
    figure = Figure(layout="constrained")
    draw(figure, *what)
    with warnings.catch_warnings(record=True):               # a letter that the font lacks is a box
        figure.savefig(path, dpi=100)
    if hasattr(builtins, "__IPYTHON__"):
        from IPython.display import Image, display
        display(Image(path))

def heat_map(axes, title, shares, rows, columns, cells=(), darkest=1.0):
    """Draws shares (R, C), the larger the darker; tokens on both axes, texts in the cells."""
    image = axes.imshow(shares.tolist(), cmap="Blues", vmin=0, vmax=darkest, aspect="auto")
    axes.set(title=title, facecolor="0.93")                  # grey: where a share is no number
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)       # a $ is a $
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    for y, row in enumerate(cells):
        for x, text in enumerate(row):
            axes.text(x, y, text, ha="center", va="center", fontsize=7, parse_math=False,
                      color="white" if shares[y][x] > 0.6 * darkest else "black")
    return image

# -----------------------------------------------------------------------------
# see: the table

@plainly
def plot(config):
    """Prints and draws the most frequent pairs: how likely they are as counted, and as learned."""
    model, tokenizer, saved = trained(config)
    V, name = tokenizer.vocab_size, [*map(visible, tokenizer.pieces)]
    source = config.input if "input" in given(config) else saved["config"]["input"]
    data, _, text = load_data(replace(config, input=source), tokenizer, 1)
    if text != saved["text"]:
        raise UserError(f"the model has learned another text than {source}: --input names it")
    counted = Counted(*count_pairs(data, V), V)
    def chances(now, after):                                 # -> (2, N): p(after | now), both ways
        learned = model(now).log_softmax(-1).gather(1, after[:, None])[:, 0]
        return torch.stack((counted.log_probs(now, after), learned)).exp()
    often = counted.counts.argsort(descending=True, stable=True)[:1 << 16]
    now, after, times = counted.keys[often] // V, counted.keys[often] % V, counted.counts[often]
    print(f"{'pair':>20}{'times':>9}   p(next | now) {'counted':>8}{'learned':>9}")
    for x, y, n, (p, q) in zip(now, after, times, chances(now[:15], after[:15]).T):
        print(f"{name[x]:>10}{name[y]:>10}{n:>9,}{p:>25.1%}{q:>9.1%}")
    rows, columns = {}, {}                                   # of the most frequent pairs, 20 each
    for x, y in zip(now.tolist(), after.tolist()):
        if len({*rows, x}) <= 20 and len({*columns, y}) <= 20:
            rows[x], columns[y] = name[x], name[y]
    pairs = torch.tensor([*itertools.product(rows, columns)])
    tables = chances(*pairs.T).view(2, len(rows), len(columns))
    picture(os.path.join(folder_of(config), "pairs.png"), draw_pairs, tables, rows, columns)

def draw_pairs(figure, tables, rows, columns):
    figure.set_size_inches(14, 7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, p, how in zip(panels, tables, ("counted", "learned")):
        cells = [[f"{100 * x:.0f}" if x >= 0.005 else "" for x in row] for row in p]
        image = heat_map(axes, f"{how}: how often, in %, the column's token follows the row's", p,
                         rows.values(), columns.values(), cells, darkest=0.3)
    figure.colorbar(image, ax=panels, shrink=0.5, extend="max")

# -----------------------------------------------------------------------------
# main

@plainly
def main():
    config = parse(Config)
    plot(config) if config.plot else sample(config) if config.sample else train(config)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # pasted into a notebook: sys.argv is the kernel's
        print('bigram_nn.py: type  train(Config(input="input.txt"))  and then  sample(Config(prompt="ROMEO:"))')
    else:
        main()
