# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "regex", "wandb"]
# ///
"""
gpt.py: a transformer, from a text and a tokenizer to one that speaks.

    python gpt.py                                        # train on input.txt, or go on where it stopped
    python gpt.py --max-steps 4000                       # go on with a finished run
    python gpt.py --sample --prompt "ROMEO:"             # speak
    python gpt.py --run my-gpt                           # with a W&B key: go on with it on any machine
    python gpt.py --explain "To be, or not to be"        # see what happens to a text, stage by stage
    python gpt.py --plot                                 # see the curves, also while it trains
    python gpt.py --tune 20                              # search for better settings

The decoder that today's open models use, numerically Qwen3, small enough to train on a laptop. A run
that is killed goes on where it was: what a step does depends on the weights, the seed and its number.
"""
import argparse, builtins, codecs, contextlib, copy, csv, ctypes, functools, glob, hashlib, importlib.util
import io, itertools, json, math, netrc, os, pickle, random, re, shlex, shutil, signal, sys, tempfile, threading
import time, urllib.parse, warnings, zlib
from array import array
from dataclasses import asdict, dataclass, field, fields, replace

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")           # torch, where it is not
try:
    import regex, torch
except ImportError as missing:
    sys.exit(f"error: {missing}: `bash run.sh` sets up what is needed, as does `pip install regex torch`")
from torch import nn
from torch.nn import functional as F
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

def preset(cpu, gpu, help):
    """A flag whose default, -1, stands for the device's: 140 s on two cores, 10 minutes on a T4."""
    help = f"{help} (default: {cpu}, on a gpu {gpu})"
    return field(default=-1, metadata={"help": help, "preset": (cpu, gpu)})

@dataclass
class Config:
    input: str = flag("input.txt", "text to learn from: a file, a folder or a glob")
    tokenizer: str = flag("out/tokenizer.json", "saved tokenizer; bytes: 256 ids, no file needed")
    out_dir: str = flag("out", "folder for what this script makes, in gpt/ there")
    seed: int = flag(1337, "same seed: same batches, same dropout, same samples")
    device: str = flag("auto", "cpu, cuda or mps; auto: the fastest there is")
    fresh: bool = flag(False, "start anew; the run that is there moves to gpt-old-N")
    # model
    n_layer: int = preset(4, 6, "blocks")
    n_head: int = preset(2, 6, "attention heads")
    n_kv_head: int = flag(0, "heads of keys and values; 0: as many as n_head, fewer are shared")
    n_embd: int = preset(128, 384, "width C of the residual stream")
    n_hidden: int = flag(0, "width of the MLP; 0: 3 x n_embd")
    block_size: int = preset(128, 256, "context T, in tokens")
    dropout: float = preset(0.0, 0.2, "share of activations dropped in training")
    # training
    max_steps: int = preset(1400, 2000, "training steps; a larger number prolongs a finished run")
    batch_size: int = preset(12, 64, "rows of T tokens per step")
    grad_accum: int = flag(1, "pieces a batch is computed in: the same steps in less memory")
    matrix_lr: float = preset(0.02, 0.02, "learning rate of the matrices (Muon)")
    vector_lr: float = preset(0.003, 0.003, "learning rate of embeddings and gains (AdamW)")
    weight_decay: float = preset(0.1, 0.1, "pull of the matrices towards zero")
    warmup: int = preset(20, 100, "steps in which the learning rate rises")
    decay: float = preset(0.5, 0.5, "share of all steps, the last, in which it falls to zero")
    average: float = preset(0.98, 0.99, "weights are averaged over about 1 / (1 - this) steps")
    eval_every: int = preset(200, 200, "steps between evaluations, which are checkpoints, too")
    dtype: str = flag("auto", "bf16, fp16 or fp32; auto: what the device computes well")
    compile: bool = flag(False, "torch.compile the model: slower to start, then faster")
    # tracking
    run: str = flag("", "name of the run at W&B, [entity/project/]name; empty: from the text's name and content")
    wandb: str = flag("auto", "auto: online with a key, else recorded in out_dir; offline; off")
    upload_minutes: float = flag(15.0, "minutes between uploads of the checkpoint")
    max_minutes: float = flag(0.0, "end the session in good order after so many; 0: never")
    upload: bool = flag(False, "send what is finished in out_dir to W&B, instead of training")
    fetch: bool = flag(False, "fetch what W&B has of --run and out_dir lacks, instead of training")
    # sampling
    sample: bool = flag(False, "speak, with the saved model, instead of training")
    prompt: str = flag("", "text to go on from (- reads stdin); empty: a new line")
    num_samples: int = flag(1, "how many samples")
    max_new_tokens: int = flag(200, "tokens per sample, at the most")
    temperature: float = flag(1.0, "below 1 more certain, above 1 more daring, 0 the likeliest")
    top_k: int = flag(0, "choose among the k likeliest tokens; 0: among all")
    # seeing
    explain: str = flag("", "walk this text through the model, stage by stage, and draw it")
    plot: bool = flag(False, "draw the curves of the run, also while it trains")
    tune: int = flag(0, "search for better settings with this many short runs")
    trial_seconds: int = flag(60, "seconds of training in each of them")
    sweep: str = flag("", "ID of a W&B sweep on another machine, to take part in")

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
# model: (B, T) ids -> (B, T, V) logits, numerically Qwen3 (arXiv:2505.09388)

def linear(n_in, n_out):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=0.5 * n_in ** -0.5)
    return layer

class Norm(nn.Module):
    """RMSNorm: divide by the root of the mean square, multiply by a learned gain. arXiv:1910.07467"""
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-6)

def rotate(x, cos, sin):
    """Turns the pairs (x1, x2) of (B, nh, T, hs) by angles that grow with the position. arXiv:2104.09864"""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)

class Attention(nn.Module):
    """Each token looks at itself and those before: query times key says at which, value what is there."""
    def __init__(self, config):
        super().__init__()
        C, self.nh, self.nkv = config.n_embd, config.n_head, config.n_kv_head
        self.hs = C // self.nh
        self.q_proj, self.o_proj = linear(C, C), linear(C, C)
        self.k_proj, self.v_proj = linear(C, self.nkv * self.hs), linear(C, self.nkv * self.hs)
        self.q_norm, self.k_norm = Norm(self.hs), Norm(self.hs)        # bounds query times key

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        q, k, v = (proj(x).view(B, T, -1, self.hs) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)      # (B, nh, T, hs), (B, nkv, T, hs)
        if self.nkv < self.nh:                               # each key serves nh / nkv queries
            k, v = (t.repeat_interleave(self.nh // self.nkv, dim=1) for t in (k, v))
        attend = functools.partial(F.scaled_dot_product_attention, is_causal=True)
        if x.device.type == "cpu":                           # 67 ms a step; with attention in bf16, 95
            with torch.autocast("cpu", enabled=False):
                y = attend(q.float(), k.float(), v.float())  # (B, nh, T, hs)
        else:
            y = attend(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, C))

class MLP(nn.Module):
    """What a token makes of what it has gathered: SwiGLU, one product gates the other. arXiv:2002.05202"""
    def __init__(self, config):
        super().__init__()
        C, hidden = config.n_embd, config.n_hidden
        self.gate_proj, self.up_proj, self.down_proj = linear(C, hidden), linear(C, hidden), linear(hidden, C)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

class Block(nn.Module):
    """Gather, then think; each adds to the residual stream, and at first, from zeros, adds nothing."""
    def __init__(self, config):
        super().__init__()
        self.attn_norm, self.attn = Norm(config.n_embd), Attention(config)
        self.mlp_norm, self.mlp = Norm(config.n_embd), MLP(config)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.attn.o_proj.weight)
        nn.init.zeros_(self.mlp.down_proj.weight)

    def forward(self, x, cos, sin):
        x = x + self.dropout(self.attn(self.attn_norm(x), cos, sin))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

class GPT(nn.Module):
    def __init__(self, config, vocab_size):
        super().__init__()
        self.config = config
        self.embd = nn.Embedding(vocab_size, config.n_embd)  # tied: the last layer is the same matrix
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = Norm(config.n_embd)
        nn.init.normal_(self.embd.weight, std=0.02)
        hs = config.n_embd // config.n_head
        angles = torch.arange(config.block_size)[:, None] / 10000 ** (torch.arange(0, hs, 2) / hs)
        self.register_buffer("cos", angles.cos(), persistent=False)    # (block_size, hs / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, idx, targets=None):
        """(B, T) ids -> (B, T, V) logits; with targets (B, T), -1 for none, the sum of their nats"""
        T = idx.shape[1]
        x = self.dropout(self.embd(idx))                     # (B, T, C)
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        logits = F.linear(self.norm(x), self.embd.weight)    # (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1,
                               reduction="sum")

    @torch.inference_mode()
    def reader(self):
        """
        -> a function that is fed the ids it has not seen and answers the next one's (V,) logits. Keys and
        values of what it has seen are kept; once block_size of them are, it forgets the first half.

        It is forward() for one token. What counts here is the number of operations, so matrices with the
        same input are joined and the norms' gains multiplied into them: five times as fast as modules.
        """
        c, seen, E, zero = self.config, [], self.embd.weight, torch.zeros(1, device=self.cos.device)
        nh, nkv, hs = c.n_head, c.n_kv_head, c.n_embd // c.n_head
        cos, sin = self.cos.repeat(1, 2)[:, None], -self.sin.repeat(1, 2)[:, None]     # (block_size, 1, hs)
        layers = []
        for block in self.blocks:
            a, mlp = block.attn, block.mlp
            gain = torch.cat((a.q_norm.weight.expand(nh, hs), a.k_norm.weight.expand(nkv, hs)))
            keys, values = torch.zeros(2, 1, nkv, c.block_size, hs, device=E.device)
            layers.append((
                torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight)) * block.attn_norm.weight,
                (cos * gain).unbind(), (sin * gain.roll(hs // 2, 1)).unbind(), keys, keys.unbind(2), values,
                values.unbind(2), a.o_proj.weight, torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
                * block.mlp_norm.weight, mlp.down_proj.weight))
        head = E * self.norm.weight

        def times_norm(matrix, x):                           # matrix @ RMSNorm(x), less its gain
            return torch.addmv(zero, matrix, x, beta=0, alpha=(x.dot(x).item() / len(x) + 1e-6) ** -0.5)

        def step(i, at):                                     # token i at position `at` -> (V,) logits
            x = E[i]                                         # (C,)
            for qkv, cos, sin, keys, key_at, values, value_at, o, gate_up, down in layers:
                qkv = times_norm(qkv, x).view(-1, hs)        # (nh + 2 nkv, hs)
                # LayerNorm of (x, -x) is RMSNorm of x, and in its middle stands (x2, -x1), for rotate()
                qk = qkv[:nh + nkv]
                qk = torch.layer_norm(torch.cat((qk, -qk), 1), (2 * hs,), eps=1e-6)
                qk = torch.addcmul(qk.narrow(1, 0, hs) * cos[at], qk.narrow(1, hs // 2, hs), sin[at])
                key_at[at].copy_(qk[nh:])
                value_at[at].copy_(qkv[nh + nkv:])
                y = F.scaled_dot_product_attention(qk[None, :nh, None], keys.narrow(2, 0, at + 1),
                                                   values.narrow(2, 0, at + 1), enable_gqa=nkv < nh)
                x = torch.addmv(x, o, y.flatten())
                gate, up = times_norm(gate_up, x).chunk(2)
                x = torch.addmv(x, down, F.silu(gate) * up)
            return times_norm(head, x)

        @torch.inference_mode()
        def read_on(ids):
            nonlocal seen
            if len(seen) + len(ids) > c.block_size:          # the last half again, from position 0
                seen, ids = [], (seen + ids)[-max(1, c.block_size // 2):]
            for i in ids:
                logits, seen = step(i, len(seen)), seen + [i]
            return logits
        return read_on

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
# tracking: Weights & Biases gets what is written in out_dir, and never holds it up

MODELS = ["bigram-counts", "bigram-nn", "bigram-nn-64", "gpt"]
FILES = ["model.pt", "metrics.csv", "result.json"]
STATE = ["state.pt", "stable.pt", "metrics.csv", "result.json"]        # copied in this order

def connect(config):
    """-> W&B's API. None: it is not to be asked, without a key or the package, or --wandb auto."""
    if config.wandb not in ("auto", "offline", "off"):
        raise UserError(f"--wandb is auto, offline or off, not {config.wandb}")
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    os.environ.pop("WANDB_SERVICE", None)                    # a notebook's that runs !python gpt.py
    wanted = config.wandb == "auto" and os.environ.get("WANDB_MODE", "online") == "online"
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    key = os.environ.get("WANDB_API_KEY")
    with contextlib.suppress(OSError, netrc.NetrcParseError):          # where `wandb login` puts it
        saved = netrc.netrc(os.environ.get("NETRC"))
        key = key or saved.authenticators(urllib.parse.urlsplit(url).netloc)
    if not (wanted and key and importlib.util.find_spec("wandb")):
        return None
    import wandb
    try:
        return wandb.Api(timeout=8)                          # it asks who we are
    except Exception as error:                               # theirs, of any kind
        raise OSError(f"{url} does not answer, or refuses the key: {brief(error)}") from None

def run_path(config, text=""):
    """-> [entity/]project/run: by default the text's file name and 6 digits of its fingerprint"""
    stem = os.path.splitext(os.path.basename(os.path.abspath(config.input)))[0]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", stem)[:33]
    name = config.run or stem + "-" + (text or fingerprint(read(config.input)))[:6]
    if not re.fullmatch(r"([\w.-]+/){0,2}[\w.-]{1,40}", name, re.ASCII):
        raise UserError(f"--run {name}: a name has letters, digits, - and _, at most 40 of them; "
                        "[entity/]project/ may stand before it")
    return name if "/" in name else os.environ.get("WANDB_PROJECT", "shebang") + "/" + name

def decide(config, **values):
    """-> config with these values, as if they had been typed"""
    decided = replace(config, **values)
    decided.typed = given(config) | values.keys()
    return decided

def brief(error):
    return (str(error) or type(error).__name__).splitlines()[0]

def rows_of(path, written=None):
    """Yields the whole rows of a csv as dicts; given an Event, waits for more until it is set."""
    line, last = "", False
    with open(path, encoding="utf-8") as f:
        names = f.readline().strip().split(",")
        while not last:
            last = not written or written.wait(0.5)          # then all is there
            for part in f:
                line += part
                if line.endswith("\n"):
                    cells, line = next(csv.reader([line])), ""
                    yield {name: cell if name == "sample" else float(cell)
                           for name, cell in zip(names, cells) if cell}

class Track:
    """
    A thread that makes a run at W&B of one stage: its rows are the history, the files it writes are
    artifacts, of which the last version stays, as are those it reads. Without a key all is recorded
    in out_dir/wandb. What fails is one line, and --upload sends it later.
    about: what tells this run from others of its stage; notes: what else to know.
    """
    def __init__(self, config, stage, about, notes, rows):
        self.config, self.stage, self.about, self.notes = config, stage, about, notes
        self.rows, self.path = rows, run_path(config, about["text"])
        self.thread = threading.Thread(target=self.follow, daemon=True)
        if config.wandb != "off" and os.environ.get("WANDB_MODE") != "disabled":
            self.thread.start()

    def end(self, seconds=300):
        """Waits until all is sent, but not for ever."""
        if self.thread.is_alive():
            self.thread.join(2)
        if self.thread.is_alive():
            print("W&B: sending the rest; Ctrl-C leaves it for another time")
            self.thread.join(seconds)
        if self.thread.is_alive():
            print("W&B takes too long: `bash run.sh` sends the rest another time", file=sys.stderr)

    def follow(self):
        try:
            run = self.open()
            try:
                self.send(run, *artifacts(self.config, self.stage))
            finally:
                run.finish()
            mode = "offline" if run.offline else "online"
            write(os.path.join(self.config.out_dir, "wandb", "sent-" + self.stage), mode.encode())
        except ImportError:
            print("W&B: `pip install wandb` shows metrics and keeps files; going on without")
        except Exception as error:                           # theirs, of any kind
            print(f"W&B: {brief(error)}: all is in {self.config.out_dir}, to be sent later",
                  file=sys.stderr)

    def open(self):
        """-> a run, online if there is a key, else one that is recorded"""
        api, out_dir = connect(self.config), os.path.abspath(self.config.out_dir)
        import wandb
        *entity, project, name = self.path.split("/")
        run_id = f"{name}-{self.stage}-{checksum(self.about)[:6]}"
        staging = os.environ["WANDB_DATA_DIR"] = f"{out_dir}/wandb/staging-{self.stage}"
        for old in [staging, *glob.glob(f"{glob.escape(out_dir)}/wandb/*run-*-{run_id}")]:
            shutil.rmtree(old, ignore_errors=True)           # all is sent, or recorded, anew
        with contextlib.suppress(ValueError, wandb.CommError):         # there is none yet
            if api and api.run("/".join([*entity, project, run_id])).state == "running":
                print("W&B: this run seems alive elsewhere (so does a killed one, for minutes)",
                      file=sys.stderr)
        run = wandb.init(
            mode="online" if api else "offline", resume="allow" if api else None, dir=out_dir,
            entity="".join(entity) or None, project=project, group=name, name=self.stage, id=run_id,
            job_type=self.stage, config=self.about | self.notes, reinit="create_new", settings=dict(
                console="off", init_timeout=15, finish_timeout=20, finish_timeout_raises=True))
        print("W&B:", run.url or "recording, `wandb leet` shows it; with a key `bash run.sh` sends "
              "it, as does  wandb sync " + shlex.quote(run.sync_dir))
        return run

    def send(self, run, outputs, inputs):
        import wandb
        samples, sent = [], time.time()
        if not run.offline:                                  # what W&B has is not sent again
            self.put(run, run.use_artifact, inputs)
        for row in self.rows:
            step, said = int(row["step"]), row.pop("sample", None)
            samples += [[step, json.loads(said)]] if said else []
            if step >= run.starting_step:                    # what a killed session sent is there
                run.log(row, step=step)
            if not run.offline and time.time() - sent > 60 * self.config.upload_minutes:
                try:
                    self.put(run, run.log_artifact, outputs)
                except Exception as error:                   # the next one, perhaps
                    print(f"W&B: no upload: {brief(error)}", file=sys.stderr)
                sent = time.time()
        self.put(run, run.log_artifact, outputs)
        if samples and step >= run.starting_step:
            shown = {"samples": wandb.Table(columns=["step", "sample"], data=samples)}
            file = os.path.join(self.config.out_dir, "curves.png")
            picture(file, draw_curves, *curves(self.config))
            if os.path.exists(file):
                shown["curves"] = wandb.Image(file)
            run.log(shown, step=step)

    def put(self, run, publish, artifacts):
        """New versions; once one is safe, the older ones go: storage does not grow."""
        import wandb
        if not run.offline:
            connect(self.config)                             # raises where an upload would hang
        for name, files in artifacts.items():
            kind = {"data": "dataset", "tokenizer": "tokenizer"}.get(name, "model")
            artifact = wandb.Artifact(f"{run.group}-{name}", kind, metadata=self.about | self.notes)
            for inside, path in files.items():
                if os.path.exists(path):
                    artifact.add_file(path, inside, skip_cache=True)
            publish(artifact, aliases=["latest", "best"])
            if not run.offline:
                artifact.wait(600)
                shutil.rmtree(os.environ["WANDB_DATA_DIR"], ignore_errors=True)
                for old in artifact.collection.artifacts():
                    if "latest" not in old.aliases:
                        old.delete(delete_aliases=True)

def about(saved):
    """A checkpoint -> what decides its numbers: who has the same is the same run, on any machine"""
    decides = {name: value for name, value in saved["config"].items()
               if type(value) in (int, float) and name not in SESSION | {"max_steps", "decay"}}
    decides |= {name: saved[name] for name in ("branch", "text", "tokenizer")}
    return {**decides, "origin": saved.get("origin") or checksum(decides)}       # that of step 0

def artifacts(config, stage):
    """-> what a stage writes, what it reads: {artifact: {its file: path}}"""
    at = functools.partial(os.path.join, config.out_dir, stage.replace("-", "_"))
    inputs = {"data": {f"{n:06}.txt": path for n, path in enumerate(find(config.input))}}
    if config.tokenizer != "bytes":
        inputs["tokenizer"] = {"tokenizer.json": config.tokenizer}
    if stage == "tokenizer":
        return inputs, {}
    files = {"gpt-state": STATE, "gpt": ["model.pt"]} if stage == "gpt" else {stage: FILES}
    return {name: {file: at(file) for file in files[name]} for name in files}, inputs

def upload(config):
    """Sends what is finished in out_dir and W&B, or its record, lacks. Trains nothing."""
    config = fetch(config)                                   # what is further on there stays
    mode = "online" if connect(config) else "offline"
    for stage in ["tokenizer", *MODELS]:
        at = functools.partial(os.path.join, config.out_dir, stage.replace("-", "_"))
        last = config.tokenizer if stage == "tokenizer" else at("result.json")
        sent = os.path.join(config.out_dir, "wandb", "sent-" + stage)
        made, told = (os.path.getmtime(p) if os.path.exists(p) else 0 for p in (last, sent))
        if not made or made <= told and read(sent)[0] in ("online", mode):
            continue
        rows = [*rows_of(at("metrics.csv"))] if os.path.exists(at("metrics.csv")) else []
        if stage == "tokenizer":
            tokenizer = Tokenizer.load(last)
            what = {"text": fingerprint(read(config.input)), "tokenizer": tokenizer.fingerprint}
            notes = {"pattern": tokenizer.pattern, "vocab_size": tokenizer.vocab_size}
        elif stage == "gpt":
            saved, _ = load([at("state.pt")], "gpt", config, ANEW)
            what, notes = about(saved), {"step": saved["step"]}
        else:
            what, notes = json.loads(read(last)[0]), {}
            rows += [{"step": len(rows), "val_loss": what["val_loss"], "val_bpb": what["val_bpb"]}]
        Track(config, stage, what, notes, rows).end(3600)

def download(api, path, folder):
    """An artifact -> its files in folder, whole, and as they were sent. False: there is none."""
    if not api.artifact_exists(path + ":latest"):
        return False
    artifact = api.artifact(path + ":latest")
    os.makedirs(folder, exist_ok=True)
    for _ in range(2):
        with (tempfile.TemporaryDirectory(dir=folder, prefix=".") as root,
              contextlib.suppress(ValueError)):              # not what the digest says: once more
            artifact.download(root, skip_cache=True)
            artifact.verify(root)
            for name in sorted(os.listdir(root), key="state.pt".__eq__):         # that one last
                os.replace(os.path.join(root, name), os.path.join(folder, name))
            return True
    raise OSError(f"{path} arrives damaged, twice: delete that version, or choose another --run")

def fetch(config):
    """
    Fetches what W&B has of the run and this machine lacks: text, tokenizer, a checkpoint that is
    further on, with --fetch the other models, too. -> config, with the places where they are
    """
    at, here = functools.partial(os.path.join, config.out_dir), {}
    with contextlib.suppress(Exception):                     # none, or damaged
        saved = torch.load(at("gpt", "state.pt"), map_location="cpu", mmap=True, weights_only=True)
        here = {**about(saved), **saved["config"], "step": saved["step"]}
    for name in {"run", "tokenizer", "input"} & here.keys() - given(config):
        if name != "input" or find(here[name]):              # the text may have moved
            config = decide(config, **{name: here[name]})
    if not find(config.input) and find(at("data")):
        config = decide(config, input=at("data"))
    try:
        if not (api := connect(config)):
            return config
        path = run_path(config)
        if not find(config.input) and download(api, path + "-data", at("data.tmp")):
            os.rename(at("data.tmp"), at("data"))
            config = decide(config, input=at("data"))
        wanted = {name: at(name.replace("-", "_"), "model.pt") for name in MODELS if config.fetch}
        if config.tokenizer != "bytes" and not os.path.exists(config.tokenizer):
            wanted["tokenizer"] = at("tokenizer.json")
            config = decide(config, tokenizer=at("tokenizer.json"))
        for name, file in wanted.items():
            if not os.path.exists(file) and download(api, f"{path}-{name}", os.path.dirname(file)):
                write(at("wandb", "sent-" + name), b"online")
        state = path + "-gpt-state"
        if not api.artifact_exists(state + ":latest"):
            return config
        there, mine = api.artifact(state + ":latest").metadata, {"origin": here.get("origin")}
        if not here:                                         # a name can go on with other settings
            typed = given(config) - {"max_steps", "decay"} if not config.run else ()
            mine = {name: getattr(config, name) for name in typed}
            mine["text"] = fingerprint(read(config.input))
            mine["tokenizer"] = Tokenizer.load(config.tokenizer).fingerprint
        if there | mine != mine | there:                     # of what both have, something differs
            raise (UserError if config.run else ValueError)(
                f"{path} is there with other settings: another --run starts one of its own")
        if not here or (there["branch"], there["step"]) > (here["branch"], here["step"]):
            download(api, state, at("gpt"))
            write(at("wandb", "sent-gpt"), b"online")
            print(f"W&B: {path} was left at step {there['step']}")
    except Exception as error:                               # theirs, of any kind
        if isinstance(error, UserError) or config.run and not here:
            raise UserError(f"W&B: {brief(error)}; --wandb off trains without") from None
        print(f"W&B: {brief(error)}; going on with what is here", file=sys.stderr)
        config = decide(config, wandb="offline")
    return config

# -----------------------------------------------------------------------------
# train

CALMER = "lower --matrix-lr and --vector-lr; what was saved before is kept"
METRICS = "step loss matrix_lr vector_lr grad_norm scale ms tokens_per_second seconds val_loss val_bpb sample".split()
ANEW = "--fresh starts anew, --out-dir keeps this run and starts another"
# what a session decides anew (all else a run keeps, unless typed), and what no run can change
SESSION = {"out_dir", "device", "fresh", "compile", "wandb", "upload_minutes", "max_minutes", "upload", "fetch",
           "sample", "prompt", "num_samples", "max_new_tokens", "temperature", "top_k",
           "explain", "plot", "tune", "trial_seconds", "sweep"}
FIXED = "run seed n_layer n_head n_kv_head n_embd n_hidden block_size batch_size".split()

def settle(config, kept, device):
    """Every value decided: as typed, as the run that goes on has it (kept), or by the preset."""
    values = asdict(config)
    for f in fields(config):
        if f.name == "input" and not find(kept.get("input", "")):
            continue                                         # the text has another place on this machine
        if f.name in kept and f.name not in SESSION | given(config):
            values[f.name] = kept[f.name]
        elif values[f.name] == -1 and "preset" in f.metadata:
            values[f.name] = f.metadata["preset"][device.type != "cpu"]
    values["n_kv_head"] = values["n_kv_head"] or values["n_head"]
    values["n_hidden"] = values["n_hidden"] or 3 * values["n_embd"]
    c = Config(**values)
    for name in FIXED if kept else ():
        if kept[name] not in (values[name], ""):
            raise UserError(f"--{name.replace('_', '-')} was {kept[name]} when this run began: {ANEW}")
    least = {name: 1 for name in [*FIXED[2:], "grad_accum", "max_steps", "eval_every"]}
    for name, low in {**least, "warmup": 0, "matrix_lr": 0, "vector_lr": 0, "weight_decay": 0}.items():
        if not low <= values[name] <= 1e6 * max(low, 1):
            raise UserError(f"--{name.replace('_', '-')} is {low} or more, and less than a million")
    if c.n_embd % (2 * c.n_head) or c.n_head % c.n_kv_head:
        raise UserError("--n-embd is a multiple of 2 x --n-head, and --n-head one of --n-kv-head")
    if not (0 <= c.dropout < 1 and 0 <= c.decay <= 1 and 0 <= c.average < 1):
        raise UserError("--dropout, --decay and --average are shares, between 0 and 1")
    return c

class Muon(torch.optim.Optimizer):
    """
    Momentum, orthogonalised: the step turns a matrix in all directions alike, also those that few
    examples ask for. https://kellerjordan.github.io/posts/muon. Matrices of one shape share their
    products: 8 ms of a step of 70 on two cores, where torch.optim.Muon takes 20.
    """
    def __init__(self, matrices, weight_decay):
        super().__init__(matrices, dict(lr=0.0, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        group, shapes = self.param_groups[0], {}
        for p in group["params"]:
            shapes.setdefault(p.shape, []).append(p)
        for (n, m), ps in shapes.items():
            x = torch.stack([p.grad for p in ps])            # (matrices, n, m)
            momentum = self.state[ps[0]].setdefault("momentum", torch.zeros_like(x))
            momentum.lerp_(x, 0.05)
            x.lerp_(momentum, 0.95)                          # Nesterov: look one step ahead
            x = orthogonal(x if n <= m else x.mT)
            torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(ps, list((x if n <= m else x.mT).unbind()),
                                alpha=-group["lr"] * max(1, n / m) ** 0.5)

def orthogonal(x):
    """(b, n, m) -> each matrix's U S V^T without its S, nearly: five steps of Newton-Schulz."""
    y = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    y = y.bfloat16() if pick_dtype("auto", x.device) == "bf16" else y
    for _ in range(5):
        A = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), y, beta=3.4445)
    return y.to(x.dtype)

def pick_dtype(name, device):
    """By capability; not torch's is_bf16_supported(), which says yes on a T4 that only emulates it."""
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        can = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "fp32"
    if name not in ("bf16", "fp16", "fp32") or name == "fp16" and device.type != "cuda":
        raise UserError(f"--dtype is bf16, fp16 (on cuda) or fp32, not {name} on {device}")
    return name

def decay_start(config):
    return config.max_steps - int(config.decay * config.max_steps)

def lr_at(step, config):
    """0..1: up, level, down. Until it goes down nothing depends on max_steps: runs can be prolonged."""
    down = (config.max_steps - step) / max(1, config.max_steps - decay_start(config))
    return min((step + 1) / (config.warmup + 1), 1.0, down)

def evaluate(model, ids, batch_size):
    """(M + 1,) ids -> nats per token over all but the first, in fp32, in windows that do not overlap."""
    T = model.config.block_size
    pad = -(len(ids) - 1) % T
    x = F.pad(ids[:-1], (0, pad)).view(-1, T).long()
    y = F.pad(ids[1:], (0, pad), value=-1).view(-1, T).long()          # -1: nothing to predict
    training = model.training
    model.eval()
    with torch.inference_mode():
        nats, done = [], progress("rows evaluated:", len(x))
        for xs, ys in zip(x.split(batch_size), y.split(batch_size)):
            nats.append(model(xs, ys).double())
            done(min(len(x), len(nats) * batch_size))
    model.train(training)
    return sum(nats).item() / (len(ids) - 1)

def taste(model, tokenizer, config):
    """-> a short sample, always of the same seed, on one line"""
    config, newline = replace(config, max_new_tokens=24), tokenizer.encode("\n").tolist()
    words = generate(model.reader(), tokenizer, config, newline, torch.Generator().manual_seed(config.seed))
    return json.dumps("".join(words), ensure_ascii=False)

def open_metrics(path, step):
    """-> the csv, opened to go on at `step`: later rows, and a last one torn by a kill, are dropped."""
    lines = [",".join(METRICS) + "\n"]
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for line in f:
                at = line.split(",")[0]
                lines += [line] if line.endswith("\n") and at.isdigit() and int(at) < step else []
    write(path, "".join(lines).encode())
    return open(path, "a", buffering=1, encoding="utf-8")

def catch_signals():
    """-> a list that the first Ctrl-C or SIGTERM puts its number in, and the handlers to restore."""
    caught, before = [], {}
    def catch(signum, frame):
        caught.append(signum)
        signal.signal(signum, before[signum])                # the second one is not for us
    if threading.current_thread() is threading.main_thread():
        before.update({s: signal.signal(s, catch) for s in (signal.SIGINT, signal.SIGTERM)})
    return caught, before

def compiled(model, autocast, *batch):
    """torch.compile fails at the first use, if it fails: that is here."""
    try:
        forward = torch.compile(model)
        with autocast:
            forward(*(t.to(model.cos.device) for t in batch)).backward()
        return forward
    except Exception as error:
        print(f"--compile does not work here ({type(error).__name__}): training without it")
        return model
    finally:
        model.zero_grad()

@plainly
def train(config, loaded=None, report=None):
    """Config -> GPT with averaged weights, saved in out_dir/gpt. Goes on with the run that is there."""
    started, device, folder = time.time(), pick_device(config.device), os.path.join(config.out_dir, "gpt")
    at = functools.partial(os.path.join, folder)
    checkpoints = [at("state.pt"), at("stable.pt")]
    if not config.fresh:
        config = fetch(config)
    if config.fresh or not any(map(os.path.exists, checkpoints)):
        saved, tokenizer = None, Tokenizer.load(config.tokenizer)
    else:
        saved, tokenizer = load(checkpoints, "gpt", config, ANEW)
    config = settle(config, saved["config"] if saved else {}, device)
    data, held_out, text = loaded or load_data(config, tokenizer, config.block_size)
    held_out = held_out.to(device)
    if saved and saved["text"] != text:
        raise UserError(f"{folder} was trained on another text: {ANEW}")
    if saved and config != (before := replace(config, **{
            name: saved["config"][name] for name in ("max_steps", "decay")})):
        down, was = decay_start(config), decay_start(before)
        if down < min(was, saved["step"]):
            raise UserError(f"step {saved['step']} is past the one, {down}, where the learning rate "
                            f"would have begun to fall: a larger --max-steps, or {ANEW}")
        if saved["step"] > was:                              # it has fallen: back to where that began
            saved, _ = load([at("stable.pt")], "gpt", config, ANEW)
            saved["branch"] += 1

    if device.type == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, 1 << 30)                            # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: memory
        libc.mallopt(-3, 1 << 25)                            # stays ours, and a step takes 53 ms, not 59

    # model, running average of its weights, optimisers: Muon for matrices, AdamW for the rest
    torch.manual_seed(config.seed)
    model = GPT(config, tokenizer.vocab_size).to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [Muon(matrices, config.weight_decay),
                  torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)]
    dtype = pick_dtype(config.dtype, device)
    half = torch.float16 if dtype == "fp16" else torch.bfloat16
    autocast = torch.autocast(device.type, half, enabled=dtype != "fp32")
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "fp16")
    numerics = f"torch {torch.__version__}, {device.type}, {dtype}"
    if device.type == "cpu":
        numerics += f", {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    step, best, vals, seconds = 0, {"val_loss": math.inf}, [], 0.0
    if saved:
        model.load_state_dict(saved["weights"])
        average.load_state_dict(saved["average"])
        scaler.load_state_dict(saved["scaler"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        optimizers[0].param_groups[0]["weight_decay"] = config.weight_decay
        step, best, vals, seconds = (saved[name] for name in ("step", "best", "vals", "seconds"))
        if step == config.max_steps and all(map(os.path.exists, (at("model.pt"), at("result.json")))):
            print(f"finished at step {step}: --sample speaks, --max-steps {2 * step} goes on, {ANEW}")
            upload(config)                                   # what a kill has left unsent
            return average
        print(f"going on at step {step} of {config.max_steps}")
        if saved["numerics"] != numerics:
            print(f"continues, not bit for bit: {saved['numerics']} -> {numerics}")

    identity = dict(kind="gpt", config=asdict(config), tokenizer=tokenizer.fingerprint, text=text,
                    branch=saved["branch"] if saved else 0)
    identity["origin"] = about(saved or identity)["origin"]
    notes = {"max_steps": config.max_steps, "decay": config.decay}
    def checkpoint(name):
        if not math.isfinite(evaluate(model, held_out[:config.block_size + 1], 1)):
            raise UserError(f"the loss is not finite: {CALMER}")
        save(at(name), dict(
            identity, step=step, best=best, vals=vals, seconds=seconds, numerics=numerics,
            weights=model.state_dict(), average=average.state_dict(), scaler=scaler.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in optimizers]))
        notes["step"] = step

    def save_best():
        save(at("model.pt"), dict(identity, **best, command=shlex.join(sys.argv)))

    if config.fresh and os.path.exists(folder):
        old = (f"{folder}-old-{n}" for n in itertools.count(1))
        os.rename(folder, next(path for path in old if not os.path.exists(path)))
    if os.path.exists(at("result.json")):
        os.remove(at("result.json"))                         # no longer finished
    if saved:                                                # else the loop begins with it
        checkpoint("state.pt")
    if "weights" in best:
        save_best()                                          # the one that this state knows of
    n_params = sum(p.numel() for p in model.parameters())
    step_tokens = config.batch_size * config.block_size
    print(f"{n_params:,} parameters | {device.type}, {dtype} | {config.max_steps:,} steps of {step_tokens:,} "
          f"tokens, {config.max_steps * step_tokens / len(data):.1f} times through the text")

    batches = Batches(data, config.block_size, config.batch_size, config.seed)
    loader = iter(DataLoader(batches, batch_size=None, sampler=range(step, config.max_steps),
                             generator=torch.Generator(), pin_memory=device.type == "cuda"))
    forward = compiled(model, autocast, *batches[0]) if config.compile else model
    shown, bad, begun = (0.0, step, seconds), 0, time.time() - seconds
    metrics, written = open_metrics(at("metrics.csv"), step), threading.Event()
    track = Track(config, "gpt", about(identity), notes, rows_of(at("metrics.csv"), written))
    stop, handlers = catch_signals()
    try:
        while not stop and not 0 < 60 * config.max_minutes < time.time() - started:
            # at the top of a step: save, evaluate, show
            row, last = {"step": step}, step == config.max_steps
            if step == decay_start(config):
                checkpoint("stable.pt")
            if step % config.eval_every == 0 or last:
                checkpoint("state.pt")                       # first: a resumed run evaluates again
                val = evaluate(average, held_out, config.batch_size)
                row |= {"val_loss": val, "val_bpb": bits_per_byte(val, held_out, tokenizer)}
                vals = [*vals, val][-4:]
                if val < best["val_loss"]:
                    weights = {name: tensor.cpu().clone() for name, tensor in average.state_dict().items()}
                    best = dict(row, weights=weights)
                    save_best()
                row["sample"] = taste(average, tokenizer, config)
                print(f"step {step:>6} | validation {val:.4f} nats per token, {row['val_bpb']:.4f} bits "
                      f"per byte | {row['sample']}")
                if report:
                    report(row)
                if len(vals) == 4 and all(earlier < later for earlier, later in zip(vals, vals[1:])):
                    print("warning: validation has risen three times: more text, more --dropout or fewer "
                          "--max-steps would help")
            if not last:
                # learn from the step's batch
                begin = time.perf_counter()
                x, y = (t.to(device, non_blocking=True) for t in next(loader))
                torch.manual_seed(mix(config.seed, step))    # dropout: a function of (seed, step), too
                total = torch.zeros((), device=device)
                for xs, ys in zip(x.chunk(config.grad_accum), y.chunk(config.grad_accum)):
                    with autocast:
                        loss = forward(xs, ys) / y.numel()
                    scaler.scale(loss).backward()
                    total += loss.detach()
                lr = lr_at(step, config)
                for optimizer, peak in zip(optimizers, (config.matrix_lr, config.vector_lr)):
                    optimizer.param_groups[0]["lr"] = peak * lr
                    scaler.unscale_(optimizer)
                norm, loss = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item(), total.item()
                bad = 0 if math.isfinite(loss + norm) else bad + 1
                if not bad:                                  # an overflow skips both optimisers
                    for optimizer in optimizers:
                        scaler.step(optimizer)
                    with torch.no_grad():                    # a short memory at first
                        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()),
                                             1 - min(config.average, step / (step + 10)))
                scaler.update()
                model.zero_grad()
                took = time.perf_counter() - begin
                seconds += took
                row |= {"loss": loss, "matrix_lr": config.matrix_lr * lr, "vector_lr": config.vector_lr * lr,
                        "grad_norm": norm,
                        "scale": scaler.get_scale(), "ms": 1000 * took,
                        "tokens_per_second": step_tokens / took, "seconds": seconds}
            csv.writer(metrics, lineterminator="\n").writerow(row.get(name, "") for name in METRICS)
            if last:
                break
            if bad == 10:
                raise UserError(f"ten losses or gradients in a row were not finite: {CALMER}")
            step += 1
            if time.time() - shown[0] > 2:
                pace = (seconds - shown[2]) / (step - shown[1])
                shown = time.time(), step, seconds
                left = time.strftime("%H:%M:%S", time.gmtime(pace * (config.max_steps - step)))
                print(f"step {step:>6}/{config.max_steps} | loss {loss:.4f} | lr {config.matrix_lr * lr:.1e} "
                      f"| {1000 * pace:.1f} ms | {step_tokens / pace:,.0f} tok/s | eta {left}")
        else:                                                # stopped, between two steps
            checkpoint("state.pt")
            print(f"stopped at step {step}, saved: the same command goes on")
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UserError(f"out of memory: --grad-accum {2 * config.grad_accum} takes the same steps in "
                        f"half of it") from None
    finally:
        metrics.close()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if stop or step < config.max_steps:                  # else the result comes first
            written.set()
            track.end()
    if stop or step < config.max_steps:
        return average if hasattr(builtins, "__IPYTHON__") else sys.exit(128 + stop[0] if stop else 0)
    print(f"{seconds:.0f} s of training; evaluations, samples and saves took "
          f"{time.time() - begun - seconds:.0f} s beside it")
    save_result(at("result.json"), model="GPT", parameters=n_params, val_loss=best["val_loss"],
                val_bpb=best["val_bpb"], seconds=seconds, text=text, tokenizer=tokenizer.fingerprint)
    written.set()
    track.end()
    if not config.tune:
        recite(average, tokenizer, config)
    return average

# -----------------------------------------------------------------------------
# sample

def trained(config):
    """-> the model with the weights that were best on validation, its tokenizer"""
    folder = os.path.join(config.out_dir, "gpt")
    if config.run:                                           # fetched once, then kept
        path = run_path(config)
        folder = os.path.join(config.out_dir, "fetched", path)
        if config.fresh or not os.path.exists(os.path.join(folder, "model.pt")):
            try:
                if not (api := connect(config)):
                    raise UserError("no key (WANDB_API_KEY)")
                download(api, path + "-tokenizer", folder)
                if not download(api, path + "-gpt", folder):
                    raise UserError(f"there is no model of {path}")
            except Exception as error:                       # theirs, of any kind
                raise UserError(f"W&B: {brief(error)}") from None
        here = os.path.join(folder, "tokenizer.json")
        config = decide(config, tokenizer=here if os.path.exists(here) else "bytes")
    paths = [os.path.join(folder, name) for name in ("model.pt", "state.pt")]
    saved, tokenizer = load(paths, "gpt", config, "`python gpt.py` trains one")
    model = GPT(Config(**saved["config"]), tokenizer.vocab_size)
    model.load_state_dict(saved.get("average", saved["weights"]))      # a checkpoint has both
    return model.eval(), tokenizer

@plainly
def sample(config):
    """Speaks with the weights that were best on validation."""
    model, tokenizer = trained(config)
    speak(model.to(pick_device(config.device)).reader, tokenizer, config)

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

def heat_map(axes, shares, rows, columns, cells=(), darkest=1.0):
    """Draws shares (R, C), the larger the darker; tokens on both axes, texts in the cells."""
    image = axes.imshow(shares.tolist(), cmap="Blues", vmin=0, vmax=darkest, aspect="auto")
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
# see: a text's way through the model, curves, what is known by heart, the search for settings

def shade(text, share, plain=""):
    """Colour where a terminal has it, the brighter the larger the share; else plain, or text."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return plain or text
    return f"\033[38;5;{(245, 252, 229, 220, 208)[min(4, int(5 * share))]}m{text}\033[0m"

@torch.no_grad()
def walk(model, ids):
    """
    T ids -> [(stage, what it makes of them), ...], as in GPT.forward. The fused kernel hides its
    weights: q and k tell. "next?" is the logit lens, what the model would say if it ended there.
    """
    cos, sin, x = model.cos[:len(ids)], model.sin[:len(ids)], model.embd(torch.tensor(ids))
    def lens(x):                                             # (T, C) -> (T, V)
        return F.linear(model.norm(x), model.embd.weight).softmax(-1)
    stages = [("embeddings", x), ("next?", lens(x))]
    for n, block in enumerate(model.blocks, 1):
        attn, h = block.attn, block.attn_norm(x)
        q, k, v = (proj(h).view(len(ids), -1, attn.hs).transpose(0, 1)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = rotate(attn.q_norm(q), cos, sin), rotate(attn.k_norm(k), cos, sin)
        stages += [(f"block {n} query", q), ("key", k), ("value", v)]  # (nh or nkv, T, hs)
        scores = q @ k.repeat_interleave(len(q) // len(k), dim=0).mT / attn.hs ** 0.5
        heads = (scores + torch.full_like(scores, -math.inf).triu(1)).softmax(-1)
        stages += [(f"head {head} looks at", weights) for head, weights in enumerate(heads, 1)]
        gathered = attn(h[None], cos, sin)[0]
        thought = block.mlp(block.mlp_norm(x + gathered))
        x = x + gathered + thought
        stages += [("+ attention", gathered), ("+ mlp", thought), ("= x", x), ("next?", lens(x))]
    logits = model(torch.tensor([ids]))[0]                   # (T, V)
    return [*stages, ("norm", model.norm(x)), ("logits", logits), ("softmax", logits.softmax(-1))]

@plainly
def explain(config):
    """Walks a text through the trained model, stage by stage, in shapes and numbers; draws it."""
    model, tokenizer = trained(config)
    ids = tokenizer.encode(config.explain).tolist()[-min(24, model.config.block_size):]
    if not ids:
        raise UserError("--explain needs a text to walk through the model")
    vocab, stages = [*map(visible, tokenizer.pieces)], walk(model, ids)
    data, names = config.explain.encode("utf-8", "surrogateescape"), [vocab[i] for i in ids]
    def best(shares, names):
        top = zip(*shares.topk(min(5, len(shares))))
        return " ".join(shade(f"{names[i]:>8} {share:4.0%}", share) for share, i in top)
    print(f"{'text':16}{visible(data)}\n{'UTF-8 bytes':16}{data.hex(' ')}")
    print(f"{'tokens, ids':16}the last {len(ids)}:", *map("{} {} ".format, names, ids))
    print(f"\nFrom here on every token has its own row; shown is that of the last, {names[-1]}\n")
    for stage, x in stages:
        row = x[-1] if x.dim() == 2 else x[0, -1]            # of several heads the first one's
        numbers = "  ".join(f"{number:+.2f}" for number in row[:6])
        shown = (best(row, names) if "looks" in stage else
                 best(row, vocab) + "\n" if stage in ("next?", "softmax") else
                 f"{numbers}  ...  length {row.norm():.1f}")
        print(f"{stage:16}{str(tuple(x.shape)):15}{shown}")
    picture(os.path.join(config.out_dir, "gpt", "explain.png"), draw_walk, names, stages, vocab)

def draw_walk(figure, names, stages, vocab):
    """A map for each head (row) of each layer (column), below them the logit lens."""
    maps = [weights for stage, weights in stages if "looks" in stage]
    shares, best = torch.stack([p for stage, p in stages if stage == "next?"]).max(-1)
    T, n_layer, nh = len(names), len(best) - 1, len(maps) // (len(best) - 1)
    side, height = max(1.8, 0.14 * T), 0.32 * n_layer + 1.3  # inches of a map, of the table
    figure.set_size_inches(max(side * n_layer + 1, 0.62 * T + 2), side * nh + height + 0.8)
    figure.suptitle("attention: how much a row's token looks at those of the columns", fontsize=10)
    grid = figure.add_gridspec(nh + 1, n_layer, height_ratios=[side] * nh + [height])
    future = torch.full((T, T), math.nan).triu(1)            # is not looked at: grey
    for n, weights in enumerate(maps):
        layer, head = divmod(n, nh)
        axes = figure.add_subplot(grid[head, layer], facecolor="0.93")
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        heat_map(axes, weights + future, names if layer == 0 else [""] * T,
                 names if head == nh - 1 else [""] * T)
    axes = figure.add_subplot(grid[nh, :])
    axes.set_title("logit lens: which token is likeliest to come next, at each depth", fontsize=10)
    depths = ["embeddings", *(f"after layer {n + 1}" for n in range(n_layer))]
    image = heat_map(axes, shares, depths, names, [[vocab[i] for i in row] for row in best])
    axes.tick_params(axis="x", rotation=0 if T <= 16 else 90)
    figure.colorbar(image, ax=figure.axes, shrink=0.5, label="attention weight, probability")

def curves(config):
    """
    -> training, the same smoothed, validation, [(step, bits per byte), ...], and {name: level} to
    compare them with; of the run in out_dir, finished or at work
    """
    at, levels = functools.partial(os.path.join, config.out_dir), {"raw bytes": 8.0}
    if not os.path.exists(at("gpt", "metrics.csv")):
        raise UserError(f"no run in {config.out_dir}: `python gpt.py` trains one")
    rows = [*rows_of(at("gpt", "metrics.csv"))]
    val = [(row["step"], row["val_bpb"]) for row in rows if "val_bpb" in row]
    if not val:
        raise UserError("no evaluation yet: wait for the first")
    bpb = val[0][1] / rows[0]["val_loss"]                    # of a nat per token, in training, too
    train = [(row["step"], bpb * row["loss"]) for row in rows if row.get("loss", 1e9) < 1e9]
    for name in "bigram_counts", "bigram_nn":
        if os.path.exists(at(name, "result.json")):
            levels[name] = json.loads(read(at(name, "result.json"))[0])["val_bpb"]
    parts = torch.tensor(train).split(math.ceil(len(train) / 60))
    return train, [part.mean(0).tolist() for part in parts], val, levels

@plainly
def plot(config):
    """Draws the curves of the run in out_dir: in text, and as a picture."""
    train, smooth, val, levels = curves(config)
    print(f"bits per byte: ● validation, {val[-1][1]:.3f} at step {val[-1][0]:.0f}; • training")
    print(*chart(smooth, val, levels), sep="\n")
    picture(os.path.join(config.out_dir, "curves.png"), draw_curves, train, smooth, val, levels)

def chart(train, val, levels, width=60, height=13):
    """-> lines of text, on a log scale"""
    values = [value for _, value in train + val] + [*levels.values()]
    top, bottom, last = max(values), 0.99 * min(values), max(1, train[-1][0], val[-1][0])
    scale = [top * (bottom / top) ** (n / (height - 1)) for n in range(height)]
    lines = {y: [" "] * width for y in scale}
    def line(value):
        return lines[min(scale, key=lambda y: abs(math.log(y / value)))]
    for name, level in levels.items():
        line(level)[:width] = "─" * width
        line(level).append(f" {name} {level:.3f}")
    for mark, points in ("•", train), ("●", val):
        for step, value in points:
            line(value)[round((width - 1) * step / last)] = mark
    lines = [f"{y:6.2f} │" + "".join(cells).rstrip() for y, cells in lines.items()]
    return [*lines, f"step 0 └{'─' * width}┘ {last:,.0f}"]

def draw_curves(figure, train, smooth, val, levels):
    figure.set_size_inches(8, 4.5)
    axes = figure.add_subplot(xlabel="step", ylabel="bits per byte", yscale="log")
    axes.plot(*zip(*train), color="C0", alpha=0.2, linewidth=0.8)
    axes.plot(*zip(*smooth), color="C0", label="training, smoothed")
    axes.plot(*zip(*val), "o-", color="C1", markersize=4, label=f"validation, now {val[-1][1]:.3f}")
    for (name, level), lift in zip(levels.items(), (0.96, 1.04, 0.96)):        # two are equal
        axes.axhline(level, color="0.5", linestyle="--", linewidth=1)
        axes.text(val[-1][0], level * lift, f"{name} {level:.3f}", color="0.4", ha="right",
                  va="center")
    axes.yaxis.set_minor_formatter("{x:g}")                  # 2, 3, ... 8
    axes.grid(alpha=0.2, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.9))

def by_heart(text, known, least=20):
    """-> {at, ...}: where text has so much of `known` word for word; the longest such stretch"""
    marked, longest, start, done = set(), "", 0, progress("characters looked up:", len(text))
    for end in range(least, len(text) + 1):
        while end - start >= least and text[start:end] not in known:
            half = end - least // 2                          # if it is new, so is all that holds it
            start = start + 1 if text[half:end] in known else half + 1
        if end - start >= least:
            marked.update(range(start, end))
            longest = max(longest, text[start:end], key=len)
        done(end)
    return marked, longest

def recite(model, tokenizer, config):
    """Prints three samples, and marks in them what the training text has word for word."""
    known, longest = EOT.join(split(read(config.input))[0]), ""
    config, newline = replace(config, max_new_tokens=100), tokenizer.encode("\n").tolist()
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(3):
        text = "".join(generate(model.reader(), tokenizer, config, newline, generator))
        marked, stretch = by_heart(text, known)
        longest = max(longest, stretch, key=len)
        text = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
        print("-" * 20)
        for mark, places in itertools.groupby(range(len(text)), marked.__contains__):
            part = "".join(text[at] for at in places)
            print(shade(part, 1.0, f"⟦{part}⟧") if mark else part, end="")
        print()
    shown = f"the longest, {len(longest)}: {json.dumps(longest, ensure_ascii=False)}" if longest else "none"
    print("-" * 20 + f"\nmarked: 20 characters or more that the training text has word for word; {shown}")

METHOD = "bayes"                                             # of a W&B sweep; or random
SPACE = {                                                    # what is searched, unless typed
    "n_layer": [2, 3, 4, 6], "n_head": [1, 2, 4], "n_embd": [64, 128, 192, 256, 384],
    "block_size": [64, 128, 256], "batch_size": [4, 8, 12, 16, 24, 32],
    "matrix_lr": [0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04],
    "vector_lr": [0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008],
    "dropout": [0.0, 0.05, 0.1, 0.2], "weight_decay": [0.03, 0.05, 0.1, 0.2, 0.4]}

def trial(config, search, loaded, name, settings, report=None):
    """
    Trains for trial_seconds in a folder of its own -> its row of the table, which alone stays and
    is not made again. Twenty steps show how many fit: so each learning rate comes down to zero.
    """
    folder = os.path.join(config.out_dir, "tune", checksum([search, settings]))
    if os.path.exists(folder + ".json"):
        return json.loads(read(folder + ".json")[0])
    print(f"\n--- trial {name} of {config.tune}: {settings}")
    c = replace(config, **settings, out_dir=folder, fresh=True, wandb="off")
    try:
        train.__wrapped__(replace(c, max_steps=20), loaded)  # its UserError is for us
        ms = sorted(row["ms"] for row in rows_of(folder + "/gpt/metrics.csv") if "ms" in row)
        steps = max(20, int(1000 * config.trial_seconds / ms[10]))
        settings = settings | {"max_steps": steps, "eval_every": math.ceil(steps / 6)}
        train.__wrapped__(replace(c, **settings), loaded, report)
        if not os.path.exists(folder + "/gpt/result.json"):
            raise KeyboardInterrupt                          # in a notebook, where train comes back
        row = {"trial": name, **json.loads(read(folder + "/gpt/result.json")[0]), **settings}
        write(folder + ".json", json.dumps(row).encode())
        return row
    except Exception as error:
        if type(error) not in (UserError, Exception):        # a bare one: W&B stops the hopeless
            raise
        print(f"trial {name} ends early: {error}")
        return {"trial": name}
    finally:
        shutil.rmtree(folder, ignore_errors=True)

def sweep(config, search, space, run_trial):
    """Takes part in a W&B sweep, --sweep or this search's own -> the rows of all machines."""
    import wandb
    os.environ["WANDB_DIR"], project = config.out_dir, os.environ.get("WANDB_PROJECT", "shebang")
    path = os.path.join(config.out_dir, "tune", checksum(search) + ".sweep")
    def follow():                                            # in a thread of wandb.agent's
        with wandb.init() as run:
            run.summary.update(run_trial(run.id, dict(run.config), run.log))
    def done():
        runs = wandb.Api().sweep(f"{project}/{ident}").runs
        return [{**run.config, **run.summary} for run in runs if "trial" in run.summary]
    try:
        ident = config.sweep or os.path.exists(path) and read(path)[0] or wandb.sweep({
            "method": METHOD, "metric": {"name": "val_bpb", "goal": "minimize"},
            "parameters": {name: {"values": values} for name, values in space.items()},
            "early_terminate": {"type": "hyperband", "min_iter": 3}}, project=project)
        write(path, ident.encode())
        print(f"others join with  python gpt.py --tune {config.tune} --sweep {ident}")
        if (left := config.tune - len(done())) > 0:
            wandb.agent(ident, follow, project=project, count=left)
        return done()
    except (wandb.Error, ValueError) as error:
        raise UserError(f"W&B: {brief(error)}") from None

@plainly
def tune(config):
    """Trains config.tune times for a minute, with settings from SPACE, and prints what was best."""
    tokenizer = Tokenizer.load(config.tokenizer)
    loaded = load_data(config, tokenizer, max(SPACE["block_size"]))
    typed = {name: getattr(config, name) for name in sorted(given(config) - SESSION)}
    space = {name: values for name, values in SPACE.items() if name not in typed}
    search = [typed, space, loaded[2], tokenizer.fingerprint, config.trial_seconds]
    run_trial = functools.partial(trial, config, search, loaded)
    if connect(config) or config.sweep:
        rows = sweep(config, search, space, run_trial)
    else:
        rows, done = [], progress("trials done:", config.tune)
        for n in range(config.tune):                         # trial n is a function of (seed, n)
            rng = random.Random(mix(config.seed, n))
            settings = {name: rng.choice(values) for name, values in space.items()}
            rows.append(run_trial(n + 1, settings))
            done(n + 1)
    rows = sorted((row for row in rows if "max_steps" in row), key=lambda row: row["val_bpb"])
    if not rows:
        raise UserError("no trial came to its end: why is said above")
    names = ["trial", "val_bpb", "parameters", "max_steps", *space]
    for row in [{}, dict(zip(names, names)), *rows]:
        print(*(str(row.get(name, ""))[:12].rjust(max(8, len(name))) for name in names))
    best = typed | {name: rows[0][name] for name in [*space, "max_steps", "eval_every"]}
    flags = (f"--{name.replace('_', '-')}={value}" for name, value in best.items())
    folder = os.path.join(config.out_dir, "best")
    print("\nthe best:", shlex.join(["python", "gpt.py", "--out-dir", folder, *flags]))

# -----------------------------------------------------------------------------
# main

@plainly
def main():
    config = parse(Config)
    asked = [work for work in (explain, plot, tune, upload, fetch, sample) if work.__name__ in given(config)]
    (asked or [train])[0](config)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # pasted into a notebook: argv is the kernel's
        print('type  train(Config(input="input.txt"))  and then  sample(Config(prompt="ROMEO:"))')
    else:
        main()
