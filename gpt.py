# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "regex", "wandb"]
# ///
"""
gpt.py: a transformer, from a text and a tokenizer to a model that speaks.

    python gpt.py                                    # train on input.txt, or go on where it stopped
    python gpt.py --max-steps 4000                   # go on with a finished run
    python gpt.py --sample --prompt "ROMEO:"         # speak
    python gpt.py --run my-gpt                       # with a W&B key: train it on any machine
    python gpt.py --explain "To be, or not to be"    # see what happens to a text, stage by stage
    python gpt.py --plot                             # see the curves, also while it trains
    python gpt.py --tune 20                          # search for better settings

The decoder that today's open models use, numerically Qwen3, small enough to train on a laptop. A
killed run goes on where it was: what a step does depends only on the state before it, the seed and
its number.

Read `model` and `train` first; `reader`, `see` and `tracking` can wait.
"""
import argparse, builtins, codecs, contextlib, copy, csv, ctypes, functools, gc, glob, hashlib, io
import itertools, json, math, multiprocessing, netrc, os, queue, random, re, shlex, shutil, signal
import sys, tempfile, threading, time, urllib.parse, warnings, zipfile, zlib
from array import array
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")     # it is not needed
# torch's threads (GNU's OpenMP) soon sleep when they wait: no slower alone, and beside another
# training 290 ms a step of gpt.py, where the default, 300,000 turns, takes 1,270 in the mean
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
gc.disable()                                                 # torch loads 0.08 s faster
try:
    import regex, torch
except ImportError as missing:
    sys.exit(f"error: {missing}: `pip install regex torch`; or, if `bash run.sh` has installed it, "
             "`source .venv/bin/activate`")
except KeyboardInterrupt:                                    # importing torch takes a second
    sys.exit(130)
finally:
    gc.freeze()                                              # what came with it is never garbage:
    gc.enable()                                              # to look through it takes 40 ms
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

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

def preset(cpu, gpu, help):
    """A flag whose default, -1, means the device's own: for a laptop, mps included, or for a T4."""
    help = f"{help} (default: {cpu}, on cuda {gpu})"
    return field(default=-1, metadata={"help": help, "preset": (cpu, gpu)})

@dataclass
class Config:
    input: str = flag("input.txt", "text to learn from: a file, a folder or a glob")
    tokenizer: str = flag("out/tokenizer.json", "saved tokenizer; bytes: no merges, no file")
    out_dir: str = flag("out", "folder for all results; the model's go to gpt/ there")
    seed: int = flag(1337, "same seed: same batches, same dropout, same samples")
    device: str = flag("auto", "cpu, cuda or mps; auto: the fastest there is")
    fresh: bool = flag(False, "start anew; the existing run moves to gpt-old-N")
    # model
    n_layer: int = preset(4, 6, "blocks")
    n_head: int = preset(2, 6, "attention heads")
    n_kv_head: int = flag(0, "heads of keys and values; 0: n_head; with fewer, queries share them")
    n_embd: int = preset(128, 384, "width C of the residual stream")
    n_hidden: int = flag(0, "width of the MLP; 0: 3 x n_embd")
    block_size: int = preset(128, 256, "context T, in tokens")
    dropout: float = preset(0.0, 0.2, "share of activations dropped in training")
    # training
    max_steps: int = preset(1400, 2000, "training steps; a larger number extends a finished run")
    batch_size: int = preset(12, 64, "rows of T tokens per step")
    grad_accum: int = flag(1, "pieces to compute a batch in: the same steps in less memory")
    matrix_lr: float = flag(0.02, "learning rate of the matrices (Muon)")
    vector_lr: float = flag(0.003, "learning rate of embeddings and gains (AdamW)")
    weight_decay: float = flag(0.1, "pull of the matrices towards zero")
    warmup: int = preset(20, 100, "steps over which the learning rate rises")
    decay: float = flag(0.5, "share of the steps, at the end, over which it falls to zero")
    average: float = preset(0.98, 0.99, "weights are averaged over about 1 / (1 - this) steps")
    eval_every: int = flag(200, "steps between evaluations, each with a checkpoint")
    dtype: str = flag("auto", "bf16, fp16 or fp32; auto: what the device computes well")
    compile: bool = flag(False, "torch.compile the model: slower to start, then faster")
    # tracking
    run: str = flag("", "name at W&B, [entity/project/]name; empty: from the text's name and hash")
    wandb: str = flag("auto", "auto: online with a key, else recorded in out_dir; offline; off")
    upload_minutes: float = flag(15.0, "minutes between uploads of the checkpoint")
    max_minutes: float = flag(0.0, "save and stop after so many minutes; 0: never")
    sync: bool = flag(False, "bring out_dir and W&B to the same state, instead of training")
    # sampling
    sample: bool = flag(False, "generate text with the saved model, instead of training")
    prompt: str = flag("", "text to continue (- reads stdin); empty: a new line")
    num_samples: int = flag(1, "how many samples")
    max_new_tokens: int = flag(200, "tokens per sample, at most")
    temperature: float = flag(1.0, "below 1: safer, above 1: more daring, 0: always the likeliest")
    top_k: int = flag(0, "choose only among the k likeliest tokens; 0: among all")
    # seeing
    explain: str = flag("", "walk this text through the model, stage by stage, and draw it")
    plot: bool = flag(False, "draw the curves of the run, also while it trains")
    tune: int = flag(0, "search for better settings with this many short runs")
    trial_seconds: int = flag(60, "seconds of training in each run of --tune")
    sweep: str = flag("", "ID of a W&B sweep to join, started on another machine")

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
# batches (same in bigram_nn.py and gpt.py)

class Batches(Dataset):
    """
    Item `step` is the whole batch of that step, a pure function of (seed, step): a run that goes on
    has no state to restore and nothing to replay. Each epoch cuts the text into windows of
    block_size ids, beginning at another place, and shuffles them.
    """
    def __init__(self, ids, block_size, batch_size, seed):
        self.ids, self.block_size, self.batch_size, self.seed = ids, block_size, batch_size, seed
        self.n_windows = max(1, len(ids) // block_size - 1)  # less one: room to begin elsewhere
        self.starts = functools.lru_cache(2)(self._starts)

    def _starts(self, epoch):
        """-> (n_windows,) where the windows of this epoch begin, in the order in which they come"""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        room = min(self.block_size, len(self.ids) - self.n_windows * self.block_size)
        first = torch.randint(room, (1,), generator=generator)
        return first + self.block_size * torch.randperm(self.n_windows, generator=generator)

    def __getitem__(self, step):
        turns = range(step * self.batch_size, (step + 1) * self.batch_size)
        # turn counts windows since the first step: so many epochs, and so many windows in this one
        at = [self.starts(turn // self.n_windows)[turn % self.n_windows] for turn in turns]
        # (B, 1) + (T + 1,) -> (B, T + 1)
        rows = self.ids[torch.stack(at)[:, None] + torch.arange(self.block_size + 1)].long()
        return rows[:, :-1], rows[:, 1:]                     # (B, T) ids, (B, T) what follows each

def mix(seed, step):
    return zlib.crc32(f"{seed} {step}".encode())             # neighbouring steps, unrelated numbers

# -----------------------------------------------------------------------------
# model: (B, T) ids -> (B, T, V) logits, numerically Qwen3 (arXiv:2505.09388)

def linear(n_in, n_out):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=0.5 * n_in ** -0.5)    # an input of size 1 gives size 0.5
    return layer

class Normed(torch.autograd.Function):
    """
    x -> y = x / rms(x), always in fp32. Derived by hand: a step takes 8% less time than with
    F.rms_norm, which on a CPU is derived operation by operation.
    """
    @staticmethod
    def forward(ctx, x):
        x = x.float()
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, dy):                                   # dx = scale * (dy - y * mean(dy * y))
        y, scale = ctx.saved_tensors
        return torch.addcmul(dy, y, (dy * y).mean(-1, keepdim=True), value=-1).mul_(scale)

class Norm(nn.Module):
    """RMSNorm: divide by the root of the mean square, times a learned gain. arXiv:1910.07467"""
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return Normed.apply(x) * self.weight

def rotate(x, cos, sin):
    """
    RoPE: turns pairs (x1, x2), the halves of (B, nh, T, hs), by angles that grow with t:
    (x1, x2) * (cos, cos) + (x2, x1) * (-sin, sin). arXiv:2104.09864
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin

class Attention(nn.Module):
    """Each token looks back: query times key says at which tokens, value what it finds there."""
    def __init__(self, config):
        super().__init__()
        C, self.nh, self.nkv = config.n_embd, config.n_head, config.n_kv_head
        self.hs = C // self.nh
        self.q_proj, self.o_proj = linear(C, C), linear(C, C)
        self.k_proj, self.v_proj = linear(C, self.nkv * self.hs), linear(C, self.nkv * self.hs)
        self.q_norm, self.k_norm = Norm(self.hs), Norm(self.hs)        # QK-norm: bounds query x key

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        # one product for all three: 3% of a step
        qkv = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        heads = F.linear(x, qkv).view(B, T, -1, self.hs).transpose(1, 2)
        # (B, nh, T, hs), (B, nkv, T, hs) twice; nkv < nh is GQA: nh / nkv queries share a key
        q, k, v = heads.split((self.nh, self.nkv, self.nkv), dim=1)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        with torch.autocast("cpu", enabled=False):           # fp32 there: 67 ms a step; in bf16 95
            y = F.scaled_dot_product_attention(              # (B, nh, T, hs)
                q, k, v.float(), is_causal=True, enable_gqa=self.nkv < self.nh)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, C))

class MLP(nn.Module):
    """Each token thinks on what it gathered. SwiGLU: one layer gates another. arXiv:2002.05202"""
    def __init__(self, config):
        super().__init__()
        C, hidden = config.n_embd, config.n_hidden
        self.gate_proj, self.up_proj = linear(C, hidden), linear(C, hidden)
        self.down_proj = linear(hidden, C)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

class Block(nn.Module):
    """Gather, then think; each adds to the residual stream (at first nothing: zero weights)."""
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
        self.embd = nn.Embedding(vocab_size, config.n_embd)  # tied: the output layer's, too
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = Norm(config.n_embd)
        nn.init.normal_(self.embd.weight, std=0.02)
        hs = config.n_embd // config.n_head
        angles = torch.arange(config.block_size)[:, None] / 10000 ** (torch.arange(0, hs, 2) / hs)
        cos, sin = torch.cat((angles, angles), 1).cos(), torch.cat((-angles, angles), 1).sin()
        self.register_buffer("cos", cos, persistent=False)   # (block_size, hs), see rotate
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, idx, targets=None):
        """(B, T) ids -> (B, T, V) logits; with targets (B, T; -1: none), the summed loss in nats"""
        T = idx.shape[1]
        x = self.dropout(self.embd(idx))                     # (B, T, C)
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        logits = F.linear(self.norm(x), self.embd.weight)    # (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1,
                               reduction="sum")

# -----------------------------------------------------------------------------
# reader: one token at a time, with the keys and values of all before it

@torch.inference_mode()
def make_reader(model):
    """
    -> read_on: (ids to read, list of ids already seen, which it extends) -> (V,) logits of the
    next. It keeps the keys and values of all it has seen (the KV cache), so that each token is
    computed once; when block_size is full, it starts again from the last half. In plain words:

        for a token at position t, x = its embedding, and in each layer:
            q, k, v = q_proj, k_proj, v_proj of norm(x);  q, k = rotate(norm(q)), rotate(norm(k))
            keys[t], values[t] = k, v
            x += o_proj(softmax(q keys[:t + 1]^T / sqrt(hs)) values[:t + 1])
            x += mlp(norm(x))

    At this size only the number of operations counts: matrices with the same input are joined and
    include the norms' gains, results are written straight into the cache. RMSNorm of x is LayerNorm
    of (x, -x), whose mean is 0: queries and keys are made as (x1, x2, -x2, -x1), from which
    rotate() is a product and a sum.
    """
    if model.cos.is_mps:                                     # each new number is compiled there
        model = copy.deepcopy(model).cpu()
    c, E = model.config, model.embd.weight
    T, C, nh, nkv = c.block_size, c.n_embd, c.n_head, c.n_kv_head
    L, hs, n = c.n_layer, C // nh, nh + nkv
    def columns(matrix):                                     # by columns: 80 us a token, not 95
        return matrix.T.contiguous().T
    matrices, gains = [], []
    for block in model.blocks:
        a, mlp = block.attn, block.mlp
        x1, x2 = torch.cat((a.q_proj.weight, a.k_proj.weight)).view(n, 2, -1, C).unbind(1)
        qk = torch.cat((x1, x2, -x2, -x1), 1).flatten(0, 1)
        qkv = torch.cat((qk, a.v_proj.weight)) * block.attn_norm.weight
        gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * block.mlp_norm.weight
        matrices.append([*map(columns, (qkv, a.o_proj.weight, gate_up, mlp.down_proj.weight))])
        gains += [*[a.q_norm.weight] * nh, *[a.k_norm.weight] * nkv]
    head, gain = columns(E * model.norm.weight), torch.stack(gains).view(L, 1, n, hs)
    cos, sin = model.cos[:, None], -model.sin[:, None]
    turns = torch.stack((cos * gain, sin * gain.roll(hs // 2, -1)), 3)     # (L, T, n, 2, hs)
    made = torch.empty(L, T, len(qkv), device=E.device)      # each token's queries, keys, values;
    turned = torch.empty(L, T, n, hs, device=E.device)       # the first two, normed and rotated
    qk, v = made.split((2 * n * hs, nkv * hs), 2)
    # by position: what is token t's own; the keys and values (1, nkv, T, hs), read up to t
    here = made, qk.view(L, T, n, 2, hs), turns, turned, turned[:, :, None, :nh, None]
    past = turned[:, :, nh:].transpose(1, 2)[:, None], v.view(L, 1, T, nkv, hs).transpose(2, 3)
    thought = torch.empty(2 * c.n_hidden, device=E.device)
    gate, up = thought.chunk(2)

    @functools.cache                                         # made anew they take 20 us a token
    def layers(t):                                           # -> position t's views of all that
        return [*zip(matrices, *(kept.select(1, t).unbind() for kept in here),
                     *(kept.narrow(3, 0, t + 1).unbind() for kept in past))]

    def times_norm(matrix, x, out):                          # matrix @ RMSNorm(x), its gain apart
        return out.addmv_(matrix, x, beta=0, alpha=(x.dot(x).item() / C + 1e-6) ** -0.5)

    @torch.inference_mode()
    def read_on(ids, seen):
        if len(seen) + len(ids) > T:                         # full: the last half again, from 0
            ids = [*seen, *ids][-max(1, T // 2):]
            seen.clear()
        for i in ids:
            x = E[i].clone()                                 # (C,)
            for (qkv, o, gate_up, down), made, qk, turn, turned, q, k, v in layers(len(seen)):
                times_norm(qkv, x, out=made)                 # the value is in the cache now
                x1x2 = torch.layer_norm(qk, (2, hs), eps=1e-6)             # (n, 2, hs)
                torch.sum(x1x2.mul_(turn), 1, out=turned)                  # and the key
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=nkv < nh)
                x.addmv_(o, y.flatten())                     # x + attention
                times_norm(gate_up, x, out=thought)
                x.addmv_(down, F.silu(gate).mul_(up))        # x + mlp
            seen.append(i)
        return times_norm(head, x, out=E.new_empty(len(E)))
    return read_on

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
# train

CALMER = "lower --matrix-lr and --vector-lr; what was saved before is kept"
ANEW = "--fresh starts anew, --out-dir keeps this run and starts another"
METRICS = ("step", "loss", "matrix_lr", "vector_lr", "grad_norm", "scale", "ms",
           "tokens_per_second", "seconds", "val_loss", "val_bpb", "sample")
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "block_size", "batch_size")
NAMES = [f.name for f in fields(Config)]
# what each session decides for itself; all else the run keeps, unless typed
SESSION = {"out_dir", "device", "fresh", "compile", *NAMES[NAMES.index("wandb"):]}

def settle(config, kept, device):
    """-> config, every value decided: as typed, else as in the run resumed (kept), else preset."""
    values = {f.name: f.metadata["preset"][device.type == "cuda"] for f in fields(config)
              if "preset" in f.metadata and getattr(config, f.name) == -1}
    values |= {name: kept[name] for name in kept.keys() - SESSION - given(config)}
    c = replace(config, **values)
    c.n_kv_head, c.n_hidden = c.n_kv_head or c.n_head, c.n_hidden or 3 * c.n_embd
    for name in ("run", "seed", *SHAPE):                     # what a run can never change
        was = kept.get(name, "")                             # "": no run, or one without a name
        if was not in ("", getattr(c, name)):
            raise UserError(f"--{name} is {was} in this run: {ANEW}".replace("_", "-"))
    least = dict.fromkeys([*SHAPE, "grad_accum", "max_steps", "eval_every"], 1)
    least |= dict.fromkeys(["warmup", "matrix_lr", "vector_lr", "weight_decay"], 0)
    for name, low in least.items():
        if not low <= getattr(c, name) <= 1e6:
            raise UserError(f"--{name} must be {low} or more, at most a million".replace("_", "-"))
    if c.n_embd % (2 * c.n_head) or c.n_head % c.n_kv_head:
        raise UserError("--n-embd must be a multiple of 2 x --n-head, and --n-head of --n-kv-head")
    if not (0 <= c.dropout < 1 and 0 <= c.decay <= 1 and 0 <= c.average < 1):
        raise UserError("--dropout, --decay and --average must be between 0 and 1")
    return c

class Muon(torch.optim.Optimizer):
    """
    Momentum, orthogonalised: a step moves a matrix equally far in all directions, even those that
    few examples ask for (https://kellerjordan.github.io/posts/muon). Matrices of one shape go
    through it as one stack: 8 ms of a 70 ms step on two cores, where torch.optim.Muon takes 20.
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
            momentum.lerp_(x, 0.05)                          # 0.95 of the old, 0.05 of the new
            x = orthogonal(x.lerp_(momentum, 0.95))          # Nesterov: look one step ahead
            torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
            # a tall matrix spreads the same step over more outputs: sqrt(n / m) makes up for that
            torch._foreach_add_(ps, list(x), alpha=-group["lr"] * max(1, n / m) ** 0.5)

def orthogonal(x):
    """(b, n, m) -> for each matrix U S V^T about U V^T, by five steps of Newton-Schulz"""
    if x.shape[1] > x.shape[2]:                              # makes y @ y.mT the smaller square
        return orthogonal(x.mT).mT
    y = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)        # now no singular value s is above 1
    y = y.bfloat16() if pick_dtype("auto", x.device) == "bf16" else y
    for _ in range(5):                                       # s -> 3.4445s - 4.7750s^3 + 2.0315s^5
        A = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), y, beta=3.4445)
    return y.to(x.dtype)

def pick_dtype(name, device):
    """By capability: torch's is_bf16_supported() says yes even on a T4, which only emulates it."""
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
    """0..1: up, level, down. Until it falls nothing depends on max_steps: runs can be extended."""
    down = (config.max_steps - step) / max(1, config.max_steps - decay_start(config))
    return min((step + 1) / (config.warmup + 1), 1.0, down)

class Learner:
    """
    A model that learns: Muon for its matrices, AdamW for the rest, and a running average of the
    weights, which is what we evaluate and sample from. parts: what a checkpoint has to hold.
    """
    def __init__(self, config, vocab_size, device):
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.model = self.forward = GPT(config, vocab_size).to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        matrices = [p for p in self.model.blocks.parameters() if p.dim() == 2]
        gains = [p for p in self.model.parameters() if p.dim() == 1]
        self.muon = Muon(matrices, config.weight_decay)
        self.adamw = torch.optim.AdamW([self.model.embd.weight, *gains], betas=(0.9, 0.95),
                                       weight_decay=0.0)
        self.dtype = pick_dtype(config.dtype, device)
        half = torch.float16 if self.dtype == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(device.type, half, enabled=self.dtype != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == "fp16")
        self.parts = dict(weights=self.model, average=self.average, muon=self.muon,
                          adamw=self.adamw, scaler=self.scaler)
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        if device.type == "cpu" and hasattr(libc, "mallopt"):
            libc.mallopt(-1, 1 << 30)                        # M_TRIM_ and M_MMAP_THRESHOLD: keep
            libc.mallopt(-3, 1 << 25)                        # freed memory, 53 ms a step, not 59

    def restore(self, saved):
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.muon.param_groups[0]["weight_decay"] = self.config.weight_decay   # if typed anew

    def compile(self, x, y):
        """If torch.compile fails, it fails at the first use: so use it here."""
        try:
            forward = torch.compile(self.model)
            x, y = (ids.chunk(self.config.grad_accum)[0].to(self.device) for ids in (x, y))
            with self.autocast:
                forward(x, y).backward()
            self.forward = forward
        except Exception as error:
            print(f"--compile does not work here ({type(error).__name__}): training without it")
        self.model.zero_grad()

    def step(self, step, x, y):
        """(B, T) ids, (B, T) the id after each -> what metrics.csv says about this step"""
        c, loss = self.config, torch.zeros((), device=self.device)
        torch.manual_seed(mix(c.seed, step))                 # dropout depends on (seed, step) alone
        for xs, ys in zip(x.chunk(c.grad_accum), y.chunk(c.grad_accum)):
            with self.autocast:
                part = self.forward(xs, ys) / y.numel()      # its share of the batch's mean
            self.scaler.scale(part).backward()
            loss += part.detach()
        share = lr_at(step, c)
        lr = {"matrix_lr": c.matrix_lr * share, "vector_lr": c.vector_lr * share}
        for optimizer, rate in zip((self.muon, self.adamw), lr.values()):
            optimizer.param_groups[0]["lr"] = rate
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if (loss + norm).isfinite():                         # an overflow skips both optimisers
            self.scaler.step(self.muon)
            self.scaler.step(self.adamw)
            with torch.no_grad():                            # with a shorter memory at first
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()),
                                     1 - min(c.average, step / (step + 10)))
        self.scaler.update()
        self.model.zero_grad()
        return {**lr, "loss": loss.item(), "grad_norm": norm.item(),
                "scale": self.scaler.get_scale()}

def evaluate(model, ids, batch_size):
    """(M + 1,) ids -> nats per token over all but the first, in windows that do not overlap"""
    T, n, device = model.config.block_size, len(ids) - 1, model.cos.device
    ids = F.pad(ids.long(), (0, -n % T), value=-1)           # -1: nothing to predict
    x, y = ids[:-1].clamp(min=0).view(-1, T), ids[1:].view(-1, T)
    rows = zip(progress("rows evaluated:", x.split(batch_size)), y.split(batch_size))
    with torch.inference_mode():
        return sum(model(xs.to(device), ys.to(device)).item() for xs, ys in rows) / n

def taste(model, tokenizer, config, n_tokens=24):
    """-> a short sample, always with the same seed, as JSON: one line"""
    config, newline = replace(config, max_new_tokens=n_tokens), tokenizer.encode("\n").tolist()
    generator = torch.Generator().manual_seed(config.seed)
    words = generate(make_reader(model), tokenizer, config, newline, generator)
    return json.dumps("".join(words), ensure_ascii=False)

def open_metrics(path, step):
    """-> the csv, opened to go on at `step`: later rows, and one torn by a kill, are dropped"""
    rows = [",".join(METRICS).encode() + b"\n"]
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as f:
        rows += [row for row in f if re.match(rb"\d+,.*\n", row) and int(row.split(b",")[0]) < step]
    write(path, b"".join(rows))
    return open(path, "a", buffering=1, encoding="utf-8")

def catch_signals():
    """-> a list to which Ctrl-C and SIGTERM append their numbers, the handlers to restore"""
    caught, before = [], {}
    def catch(signum, frame):
        caught.append(signum)
        if signum == signal.SIGINT:                          # a second Ctrl-C ends it at once
            signal.signal(signum, before[signum])
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, catch)
    return caught, before

def begin(config, device, loaded=None):
    """-> config, every value decided; tokenizer; what load_data() gives; the checkpoint, or {}"""
    paths = [os.path.join(config.out_dir, "gpt", name) for name in ("state.pt", "stable.pt")]
    config = config if config.fresh else fetch(config)
    if config.fresh or not any(map(os.path.exists, paths)):
        saved, tokenizer = {}, Tokenizer.load(config.tokenizer)
    else:
        saved, tokenizer = load(paths, "gpt", config, ANEW)
    kept = saved.get("config", {})
    config = settle(config, kept, device)
    data = loaded or load_data(config, tokenizer, config.block_size)
    if saved and saved["text"] != data[2]:
        raise UserError(f"{paths[0]} has learned another text: {ANEW}")
    before = replace(config, **kept)
    # a new --max-steps or --decay moves the step at which the learning rate begins to fall
    if (config.max_steps, config.decay) != (before.max_steps, before.decay):
        down, was = decay_start(config), decay_start(before)
        if down < min(was, saved["step"]):
            raise UserError(f"step {saved['step']} is past {down}, where the learning rate would "
                            f"have begun to fall: a larger --max-steps, or {ANEW}")
        if saved["step"] > was:                              # it was falling: back to stable.pt
            saved, _ = load(paths[1:], "gpt", config, ANEW)
            saved["branch"] += 1
    return config, tokenizer, data, saved

def alone(folder):
    """-> a lock, held while open: two runs in a folder would spoil each other's checkpoints"""
    os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
    lock = open(folder + ".lock", "w", encoding="utf-8")
    with contextlib.suppress(ImportError, OSError):          # Windows, network drives: no locks
        import fcntl
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another gpt.py is training in {folder}: --out-dir takes another "
                            "place") from None
    return lock

@plainly
def train(config, loaded=None, report=None):                 # the last two are for tune()
    """Config -> GPT with averaged weights, saved in out_dir/gpt; resumes the run that is there."""
    started, device = time.time(), pick_device(config.device)
    at = functools.partial(os.path.join, config.out_dir, "gpt")
    config, tokenizer, (data, held_out, text), saved = begin(config, device, loaded)
    lock = alone(at())
    learner = Learner(config, tokenizer.vocab_size, device)
    model, average = learner.model, learner.average
    numerics = (f"torch {torch.__version__}, {device.type}, {learner.dtype}, "
                f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    step, best, vals, seconds = 0, {"val_loss": math.inf}, [], 0.0
    if saved:
        learner.restore(saved)
        step, best, vals, seconds = (saved[name] for name in ("step", "best", "vals", "seconds"))
        if step == config.max_steps and {"model.pt", "result.json"} <= {*os.listdir(at())}:
            print(f"finished at step {step}: --sample speaks, --max-steps {2*step} goes on, {ANEW}")
            send(config)                                     # what a killed session did not send
            return average
        print(f"going on at step {step} of {config.max_steps}")
        if saved["numerics"] != numerics:
            print(f"continues, not bit for bit: {saved['numerics']} -> {numerics}")
    identity = dict(kind="gpt", config=asdict(config), tokenizer=tokenizer.fingerprint, text=text,
                    branch=saved.get("branch", 0), step=step, numerics=numerics)
    identity["origin"] = about(saved or identity)["origin"]  # the same wherever the run goes on
    facts = about(identity)
    def checkpoint(name):
        """Saves all that the run needs to go on, but never weights that are broken."""
        if not math.isfinite(evaluate(model, held_out[:config.block_size + 1], 1)):
            raise UserError(f"the loss is not finite: {CALMER}")
        states = {name: part.state_dict() for name, part in learner.parts.items()}
        save(at(name), dict(identity, step=step, best=best, vals=vals, seconds=seconds, **states))
        facts["step"] = step
    def save_best():
        save(at("model.pt"), dict(identity, **best, command=shlex.join(sys.argv)))

    if config.fresh and os.path.exists(at()):
        places = (f"{at()}-old-{n}" for n in itertools.count(1))
        os.rename(at(), next(place for place in places if not os.path.exists(place)))
    if os.path.exists(at("result.json")):
        os.remove(at("result.json"))                         # no longer finished
    if saved:                                                # at step 0 the loop begins with it
        checkpoint("state.pt")
    if "weights" in best:
        save_best()                                          # the file may be ahead of this state

    n_params = sum(p.numel() for p in model.parameters())
    step_tokens = config.batch_size * config.block_size
    epochs = config.max_steps * step_tokens / len(data)
    print(f"{n_params:,} parameters | {device.type}, {learner.dtype} | {config.max_steps:,} steps "
          f"of {step_tokens:,} tokens, {epochs:.1f} times through the text")
    batches = Batches(data, config.block_size, config.batch_size, config.seed)
    loader = iter(DataLoader(batches, batch_size=None, sampler=range(step, config.max_steps),
                             generator=torch.Generator()))
    if config.compile:
        learner.compile(*batches[0])
    entered, first, before = time.time(), step, seconds
    shown, bad = 0.0, 0                                      # shown: when a line last was
    metrics = open_metrics(at("metrics.csv"), step)
    rows = csv.DictWriter(metrics, METRICS, lineterminator="\n")
    track = Track(config, "gpt", facts, rows_of(at("metrics.csv")))
    stop, handlers = catch_signals()
    try:
        for step in range(step, config.max_steps + 1):
            if stop or 0 < 60 * config.max_minutes < time.time() - started:
                checkpoint("state.pt")
                print(f"stopped at step {step}, saved: the same command goes on")
                break

            # at the top of a step: save, evaluate, show. What a kill cuts off after a state.pt is
            # done again from there: later rows are dropped, model.pt is what that state knows
            row, last = {"step": step}, step == config.max_steps
            if step == decay_start(config):
                checkpoint("stable.pt")
            if step % config.eval_every == 0 or last:
                checkpoint("state.pt")                       # first: if killed here, evaluate again
                val = evaluate(average, held_out, math.ceil(config.batch_size / config.grad_accum))
                row |= {"val_loss": val, "val_bpb": bits_per_byte(val, held_out, tokenizer)}
                vals = [*vals, val][-4:]
                if val < best["val_loss"]:
                    best = dict(row, weights=copy.deepcopy(average.state_dict()))
                    save_best()
                row["sample"] = taste(average, tokenizer, config)
                print(f"step {step:>6} | validation {val:.4f} nats per token, "
                      f"{row['val_bpb']:.4f} bits per byte | {row['sample']}")
                if report:
                    report(row)
                if len(vals) == 4 and vals[0] < vals[1] < vals[2] < vals[3]:
                    print("warning: validation has risen three times: more text, more --dropout or "
                          "fewer --max-steps would help")
            if not last:                                     # learn from the step's batch
                begun = time.perf_counter()
                row |= learner.step(step, *(ids.to(device) for ids in next(loader)))
                took = time.perf_counter() - begun
                seconds += took
                row |= dict(ms=1000 * took, tokens_per_second=step_tokens / took, seconds=seconds)
            rows.writerow(row)
            track.log(row)

            if last:
                beside = time.time() - entered - (seconds - before)
                print(f"{seconds:.0f} s of training; evaluations, samples and saves took "
                      f"{beside:.0f} s more")
                save_result(at("result.json"), model="GPT", parameters=n_params, seconds=seconds,
                            val_loss=best["val_loss"], val_bpb=best["val_bpb"], text=text,
                            tokenizer=tokenizer.fingerprint)
                break
            bad = 0 if math.isfinite(row["loss"] + row["grad_norm"]) else bad + 1
            if bad == 10:
                raise UserError(f"ten losses or gradients in a row were not finite: {CALMER}")
            if time.time() - shown > 2:
                shown, pace = time.time(), (seconds - before) / (step + 1 - first)
                left = timedelta(seconds=round(pace * (config.max_steps - step - 1)))
                print(f"step {step + 1:>6}/{config.max_steps} | loss {row['loss']:.4f} | "
                      f"lr {row['matrix_lr']:.1e} | {1000 * pace:.1f} ms | "
                      f"{step_tokens / pace:,.0f} tok/s | eta {left}")
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"out of memory: --grad-accum {2 * config.grad_accum} takes the same steps "
                        f"in half of it") from None
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        track.end()
        lock.close()
        metrics.close()                                      # on a full disk it fails
    if config.tune and signal.SIGINT in stop:
        raise KeyboardInterrupt                              # ends the search, also in a notebook
    if stop and not hasattr(builtins, "__IPYTHON__"):
        sys.exit(128 + stop[0])
    if os.path.exists(at("result.json")) and find(config.input) and not (stop or config.tune):
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
            if not (api := connect(config)):
                raise UserError("W&B: no key (WANDB_API_KEY)")
            download(api, path + "-tokenizer", folder)
            if not download(api, path + "-gpt", folder):
                raise UserError(f"W&B: there is no model of {path}")
        here = os.path.join(folder, "tokenizer.json")
        config = decide(config, tokenizer=here if os.path.exists(here) else "bytes")
    paths = [os.path.join(folder, name) for name in ("model.pt", "state.pt")]
    saved, tokenizer = load(paths, "gpt", config, "`python gpt.py` trains one")
    model = GPT(Config(**saved["config"]), tokenizer.vocab_size)
    model.load_state_dict(saved.get("average", saved["weights"]))      # only state.pt has both
    return model.eval(), tokenizer

@plainly
def sample(config):
    """Speaks with the weights that were best on validation."""
    model, tokenizer = trained(config)
    speak(make_reader(model.to(pick_device(config.device))), tokenizer, config)

# -----------------------------------------------------------------------------
# see: what makes things visible (same in bigram_nn.py and gpt.py)

def visible(piece):
    """bytes -> str in which all can be seen: blanks as · ↵ →, the unprintable as \\x00."""
    text = piece.decode("utf-8", "backslashreplace").translate({32: "·", 10: "↵", 9: "→"})
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

def picture(path, draw, *what):
    """draw(figure, *what) -> PNG; a notebook shows it, too."""
    try:
        from matplotlib.figure import Figure                 # not pyplot: no window, no state
    except ImportError:
        return print("no picture: `pip install matplotlib` gets what draws it")
    print(f"drawing {path}", flush=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
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
# see: a text's way through the model, curves, what is known by heart, the search for settings

def shade(text, share, plain=""):
    """Colour where a terminal has it, the brighter the larger the share; else plain, or text."""
    terminal = sys.stdout and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not terminal or os.environ.get("NO_COLOR"):
        return plain or text
    return f"\033[38;5;{(245, 252, 229, 220, 208)[min(4, int(5 * share))]}m{text}\033[0m"

@torch.no_grad()
def walk(model, ids):
    """T ids -> [(stage, what it makes of them), ...]: GPT.forward, and what comes next so far."""
    T, cos, sin = len(ids), model.cos[:len(ids)], model.sin[:len(ids)]
    future = torch.full((T, T), -math.inf).triu(1)
    def next_token(x):                                       # (T, C) -> (T, V): if it ended here
        return F.linear(model.norm(x), model.embd.weight).softmax(-1)
    x = model.embd(torch.tensor(ids))
    stages = [("embeddings", x), ("next?", next_token(x))]
    for block in model.blocks:
        attn, h = block.attn, block.attn_norm(x)
        q, k, v = (proj(h).view(T, -1, attn.hs).transpose(0, 1)        # (nh or nkv, T, hs)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = rotate(attn.q_norm(q), cos, sin), rotate(attn.k_norm(k), cos, sin)
        scores = q @ k.repeat_interleave(attn.nh // attn.nkv, 0).mT / attn.hs ** 0.5
        x = block(x[None], cos, sin)[0]
        stages += [("queries", q), ("keys", k), ("values", v),
                   ("looks at", (scores + future).softmax(-1)),        # (nh, T, T)
                   ("residual stream", x), ("next?", next_token(x))]
    logits = model(torch.tensor([ids]))[0]
    return [*stages, ("norm", model.norm(x)), ("logits", logits), ("softmax", logits.softmax(-1))]

@plainly
def explain(config):
    """Walks a text through the trained model, stage by stage, in shapes and numbers; draws it."""
    model, tokenizer = trained(config)
    ids = tokenizer.encode(config.explain).tolist()[-min(24, model.config.block_size):]
    if not ids:
        raise UserError("--explain needs a text to walk through the model")
    vocab, data = [visible(piece) for piece in tokenizer.pieces], os.fsencode(config.explain)
    names, stages = [vocab[i] for i in ids], walk(model, ids)
    print(f"{'text':16}{visible(data)}\n{'UTF-8 bytes':16}{data.hex(' ')}")
    print(f"{'tokens, ids':16}the last {len(ids)}:", *map("{} {} ".format, names, ids))
    print(f"\nFrom here on each token has its own row: that of the last, {names[-1]}, by head\n")
    blocks = itertools.count(1)
    for stage, x in stages:
        if stage == "queries":
            print(f"block {next(blocks)}")
        among = {"looks at": names, "next?": vocab, "softmax": vocab}.get(stage)
        for row in torch.atleast_2d(x[..., -1, :]):
            shown = "  ".join(f"{number:+.2f}" for number in row[:6]) + "  ..."
            if among:
                best = zip(*row.topk(min(5, len(row))))
                shown = " ".join(shade(f"{among[i]:>8} {share:4.0%}", share) for share, i in best)
            print(f"{stage:16}{str(tuple(x.shape)):15}{shown}" + "\n" * (stage == "next?"))
    picture(os.path.join(config.out_dir, "gpt", "explain.png"), draw_walk, names, stages, vocab)

def draw_walk(figure, names, stages, vocab):
    """A map for each head (row) of each layer (column), below them the logit lens."""
    maps = [weights for stage, weights in stages if stage == "looks at"]         # (nh, T, T) each
    shares, best = torch.stack([p for stage, p in stages if stage == "next?"]).max(-1)
    depths = ["embeddings", *(f"after layer {n}" for n in range(1, len(best)))]
    n_layer, nh = len(maps), len(maps[0])
    high, low = max(3, 0.2 * len(names)) * nh, 0.35 * n_layer + 2
    figure.set_size_inches(max(3 * n_layer, 0.6 * len(names)) + 1, high + low)
    upper, lower = figure.subfigures(2, height_ratios=[high, low])
    upper.suptitle("attention: how much a row's token looks at those of the columns")
    panels = upper.subplots(nh, n_layer, sharex=True, sharey=True, squeeze=False)
    future = torch.full((len(names), len(names)), math.nan).triu(1)    # is not looked at: grey
    for layer, head in itertools.product(range(n_layer), range(nh)):
        heat_map(panels[head, layer], f"layer {layer + 1}, head {head + 1}",
                 maps[layer][head] + future, names, names)
    image = heat_map(lower.subplots(), "logit lens: what is likeliest to come next, at each depth",
                     shares, depths, names, [[vocab[i] for i in row] for row in best])
    upper.colorbar(image, ax=panels, shrink=0.5, label="attention weight, probability")

def curves(config):
    """-> {name: [(step, bits per byte), ...]}: levels to compare with, training, validation"""
    at, levels = functools.partial(os.path.join, config.out_dir), {"raw bytes": 8.0}
    rows = [*rows_of(at("gpt", "metrics.csv"))]
    val, train = ([(row["step"], row[name]) for row in rows if row.get(name, 1e9) < 1e9]
                  for name in ("val_bpb", "loss"))
    if not (val and train):
        raise UserError(f"nothing to draw in {config.out_dir} yet: `python gpt.py` trains a model")
    for name in "bigram_counts", "bigram_nn":
        for path in find(at(name, "result.json")):           # none, or one
            levels[name] = result_of(path)["val_bpb"]
    steps = [rows[-1]["step"] * n / 59 for n in range(60)]
    nat = next(row["val_bpb"] / row["val_loss"] for row in rows if "val_bpb" in row)
    bpb = torch.tensor([1.0, nat])                           # of a nat per token
    parts = torch.tensor(train).split(math.ceil(len(train) / 60))      # 60 means: steps are noisy
    return {**{name: [(step, level) for step in steps] for name, level in levels.items()},
            "training": [(bpb * part.mean(0)).tolist() for part in parts], "validation": val}

@plainly
def plot(config):
    """Draws the curves of the run in out_dir: in text, and as a picture."""
    lines = curves(config)
    print("bits per byte", *chart(lines), sep="\n")
    picture(os.path.join(config.out_dir, "curves.png"), draw_curves, lines)

def chart(lines, width=60, height=13):
    """{name: [(step, value), ...]} -> text, on a log scale; the name stands where the line ends"""
    steps, values = zip(*itertools.chain(*lines.values()))
    last, top, low = max(1, *steps), max(values), max(1e-3, 0.99 * min(values))
    ratio = (low / top) ** (1 / (height - 1))                # of each row to the one above
    rows = [[f"{top * ratio ** n:6.2f} │", *" " * width] for n in range(height)]
    for name, points in lines.items():
        mark = {"training": "•", "validation": "●"}.get(name, "─")
        for step, value in points:
            row = rows[round(math.log(max(low, value) / top, ratio))]
            row[1 + round((width - 1) * step / last)] = mark
        row.append(f" {name} {value:.3f}")
    return [*("".join(row).rstrip() for row in rows), f"step 0 └{'─' * width}┘ {last:,.0f}"]

def draw_curves(figure, lines):
    figure.set_size_inches(8, 4.5)
    axes = figure.add_subplot(xlabel="step", ylabel="bits per byte", yscale="log")
    for name, points in reversed(lines.items()):             # bigram_counts covers bigram_nn
        style = {"training": "-", "validation": "o-", "bigram_nn": "-"}.get(name, "--")
        axes.plot(*zip(*points), style, markersize=4, label=f"{name} {points[-1][1]:.3f}")
    axes.yaxis.set_minor_formatter("{x:g}")                  # 2, 3, ... 8
    axes.grid(alpha=0.2, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)

def by_heart(text, known, least=20):
    """-> {at, ...}: where text has so much of `known` word for word; the longest such stretch"""
    marked, longest, start = set(), "", 0
    for end in progress("characters looked up:", range(1, len(text) + 1)):
        while text[start:end] not in known:
            start += 1
        if end - start >= least:
            marked.update(range(start, end))
            longest = max(longest, text[start:end], key=len)
    return marked, longest

def recite(model, tokenizer, config):
    """Prints three samples, and marks in them what the training text has word for word."""
    known, longest = EOT.join(split(read(config.input))[0]), ""
    for n in range(3):
        text = json.loads(taste(model, tokenizer, replace(config, seed=config.seed + n), 100))
        marked, stretch = by_heart(text, known)
        longest = max(longest, stretch, key=len)
        print("-" * 20)
        for mark, part in itertools.groupby(enumerate(text), lambda at: at[0] in marked):
            part = "".join(c if c.isprintable() or c == "\n" else "�" for _, c in part)
            print(shade(part, 1.0, f"⟦{part}⟧") if mark else part, end="")
        print()
    found = f"the longest, {len(longest)}: {json.dumps(longest, ensure_ascii=False)}"
    print("-" * 20 + "\nmarked: 20 characters or more that the training text has word for word;",
          found if longest else "none")

SWEEP = {"method": "bayes", "metric": {"name": "val_bpb", "goal": "minimize"},
         "early_terminate": {"type": "hyperband", "min_iter": 3}}      # stops what is hopeless
SPACE = {                                                    # what is searched, unless typed
    "n_layer": [2, 3, 4, 6], "n_head": [1, 2, 4], "n_embd": [64, 128, 192, 256, 384],
    "block_size": [64, 128, 256], "batch_size": [4, 8, 12, 16, 24, 32],
    "matrix_lr": [0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04],
    "vector_lr": [0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008],
    "dropout": [0.0, 0.05, 0.1, 0.2], "weight_decay": [0.03, 0.05, 0.1, 0.2, 0.4]}

def trial(config, loaded, settings, report=None):
    """Trains with these settings for trial_seconds -> its row of the table."""
    fit = train.__wrapped__                                  # its errors are for us
    print(f"\n--- {config.trial_seconds} s of training: {settings}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            c = replace(config, **settings, out_dir=folder, fresh=True, wandb="off", max_minutes=0)
            fit(replace(c, max_steps=20), loaded)            # shows how many steps fit
            ms = sorted(row["ms"] for row in rows_of(folder + "/gpt/metrics.csv") if "ms" in row)
            steps = max(20, int(1000 * config.trial_seconds / ms[10]))
            settings = settings | {"max_steps": steps, "eval_every": math.ceil(steps / 6)}
            fit(replace(c, **settings), loaded, report)
            return settings | result_of(folder + "/gpt/result.json")
    except Exception as error:                               # W&B's, for a hopeless one, is bare
        if type(error) not in (UserError, Exception):
            raise
        print(f"this trial ends early: {error}")
        return {}

def random_search(config, loaded, space, path):
    """-> the rows of config.tune trials, drawn at random; those that path has are not made again"""
    rows = json.loads(read(path)[0]) if os.path.exists(path) else []
    for n in progress("trials done:", range(len(rows), config.tune)):
        rng = random.Random(mix(config.seed, n))             # trial n is a function of (seed, n)
        settings = {name: rng.choice(values) for name, values in space.items()}
        rows.append(trial(config, loaded, settings))
        write(path, json.dumps(rows).encode())
    return rows

def sweep(config, loaded, space, path):
    """Takes part in a W&B sweep, --sweep or this search's own -> the rows of all machines."""
    import wandb
    os.environ["WANDB_DIR"] = config.out_dir
    os.environ["WANDB_PROJECT"] = os.environ.get("WANDB_PROJECT") or "shebang"
    def follow():                                            # in a thread of wandb.agent's
        with wandb.init() as run:
            run.summary.update(trial(config, loaded, dict(run.config), run.log))
    def rows():
        runs = wandb.Api().sweep(name).runs                  # without those that ended early
        return [dict(run.summary) for run in runs if "max_steps" in run.summary]
    sought = SWEEP | {"parameters": {name: {"values": values} for name, values in space.items()}}
    try:
        name = config.sweep or os.path.exists(path) and read(path)[0] or wandb.sweep(sought)
        write(path, name.encode())                           # to go on after an interruption
        print(f"others join with  python gpt.py --tune {config.tune} --sweep {name}")
        if len(rows()) < config.tune:
            wandb.agent(name, follow, count=config.tune - len(rows()))
        return rows()
    except (wandb.Error, ValueError) as error:
        raise UserError(f"W&B: {brief(error)}") from None

@plainly
def tune(config):
    """Trains config.tune times for a minute, with settings from SPACE, and prints what was best."""
    tokenizer = Tokenizer.load(config.tokenizer)
    loaded = load_data(config, tokenizer, max(SPACE["block_size"]))
    typed = {name: getattr(config, name) for name in sorted(given(config) - SESSION)}
    space = {name: values for name, values in SPACE.items() if name not in typed}
    search = checksum([typed, space, loaded[2], tokenizer.fingerprint, config.trial_seconds])
    work, kind = (sweep, "sweep") if connect(config) or config.sweep else (random_search, "json")
    rows = work(config, loaded, space, os.path.join(config.out_dir, "tune", f"{search}.{kind}"))
    rows = sorted(filter(None, rows), key=lambda row: row["val_bpb"])
    if not rows:
        raise UserError("no trial has come to its end: see above")
    names = ["val_bpb", "parameters", "max_steps", "eval_every", *space]
    print("", *names)
    for row in rows:
        print("", *(str(row.get(name, ""))[:len(name)].rjust(len(name)) for name in names))
    found = {name: rows[0][name] for name in names[2:]}
    best = {"out_dir": f"{config.out_dir}/best", **typed, **found}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in best.items()]
    print("\nthe best:", shlex.join(["python", "gpt.py", *flags]))

# -----------------------------------------------------------------------------
# tracking: out_dir -> Weights & Biases, which gets what is written and never holds training up

BIGRAMS = ["bigram-counts", "bigram-nn", "bigram-nn-64"]
DONE = ["metrics.csv", "result.json"]
# {stage: {artifact: its files}}, all in the order they are sent
FILES = {"tokenizer": {}, **{name: {name: ["model.pt", *DONE]} for name in BIGRAMS},
         "gpt": {"gpt-state": ["state.pt", "stable.pt", *DONE], "gpt": ["model.pt"]}}
LATER = {"max_steps", "decay", "step"}                       # may change within a run

def connect(config):
    """-> W&B's API; None: it is not to be asked (no key, no wandb, or --wandb is not auto)"""
    if config.wandb not in ("auto", "offline", "off"):
        raise UserError(f"--wandb is auto, offline or off, not {config.wandb}")
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false",
                      WANDB_SERVICE="")                      # else a notebook's own wandb is used
    wanted = config.wandb == "auto" and (os.environ.get("WANDB_MODE") or "online") == "online"
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    key = os.environ.get("WANDB_API_KEY")
    with contextlib.suppress(OSError, netrc.NetrcParseError):          # where `wandb login` puts it
        saved = netrc.netrc(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))
        key = key or saved.authenticators(urllib.parse.urlsplit(url).netloc)
    if not (wanted and key):
        return None
    try:
        import wandb
        return wandb.Api(timeout=8)                          # asks the server who we are
    except Exception as error:                               # wandb raises all kinds
        if type(error) is ModuleNotFoundError and not config.run:
            return None
        raise OSError(f"{url} does not answer, refuses the key, or wandb is not installed (--wandb "
                      f"off does without): {brief(error)}") from None

def latest(api, path):
    """-> the newest version of an artifact; None: there is none. Other failures are OSErrors."""
    try:
        return api.artifact(path + ":latest")
    except Exception as error:
        if "not found" not in str(error):                    # artifact_exists() hides other errors
            raise OSError(f"{path}: {brief(error)}") from None

def download(api, path, folder):
    """An artifact -> its files in folder, complete and verified. False: there is no artifact."""
    if not (artifact := latest(api, path)):
        return False
    root = os.path.join(folder, ".download")
    for _ in range(2):                                       # a killed download fails only once
        try:
            artifact.download(root, skip_cache=True)
            artifact.verify(root)
            for name in sorted(os.listdir(root), key="state.pt".__eq__):         # state.pt last
                os.replace(os.path.join(root, name), os.path.join(folder, name))
            return True
        except Exception as error:                           # wandb raises all kinds
            why = brief(error)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    raise OSError(f"{path} arrives damaged, or not at all, twice ({why}): delete that version, or "
                  "choose another --run")

def run_path(config, text=""):
    """-> [entity/]project/run: by default the text's file name and 6 digits of its fingerprint"""
    stem = os.path.splitext(os.path.basename(os.path.abspath(config.input)))[0]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", stem)[:33]
    name = config.run or stem + "-" + (text or checksum(read(config.input)))[:6]
    if not re.fullmatch(r"([\w.-]+/){0,2}[\w.-]{1,40}", name, re.ASCII):
        raise UserError(f"--run {name}: a name has letters, digits, - and _, at most 40 of them; "
                        "[entity/]project/ may stand before it")
    return name if "/" in name else (os.environ.get("WANDB_PROJECT") or "shebang") + "/" + name

def decide(config, **values):
    """-> config with these values, as if they had been typed"""
    decided = replace(config, **values)
    decided.typed = given(config) | values.keys()
    return decided

def brief(error):
    return (str(error) or type(error).__name__).splitlines()[0]

def rows_of(path):
    """Yields the rows of a csv as dicts, up to one that is torn or damaged."""
    end = contextlib.suppress(FileNotFoundError, ValueError, TypeError)
    with end, open(path, encoding="utf-8", errors="replace") as f:
        for row in csv.DictReader(line for line in f if line.endswith("\n")):
            yield {name: cell if name == "sample" else float(cell)
                   for name, cell in row.items() if cell}

def result_of(path):
    """-> a model's row of the ladder"""
    try:
        return json.loads(read(path)[0])
    except ValueError:
        raise UserError(f"{path} is damaged: delete it, and `bash run.sh` makes it again") from None

class Track(threading.Thread):
    """
    One stage's run at W&B: its rows are the history, the files it reads and writes are artifacts,
    of which only the newest version is kept. Without a key all is recorded in out_dir/wandb. What
    fails costs one line of output, and --sync sends it later.
    """
    def __init__(self, config, stage, facts, rows):
        super().__init__(target=self.follow, daemon=True)
        self.config, self.stage, self.facts, self.rows = config, stage, facts, queue.SimpleQueue()
        self.path = run_path(config, facts["text"])
        if config.wandb != "off" and os.environ.get("WANDB_MODE") != "disabled":
            for row in rows:
                self.rows.put(row)
            self.start()

    def log(self, row):
        if self.is_alive():
            self.rows.put(row)

    def end(self, seconds=300):
        """Waits until all is sent, but not for ever."""
        self.rows.put(None)
        if self.is_alive():
            self.join(2)
        if self.is_alive():
            print("W&B: sending the rest; Ctrl-C leaves it for another time")
            self.join(seconds)
        if self.is_alive():
            print("W&B takes too long: `bash run.sh` sends the rest another time", file=sys.stderr)

    def follow(self):
        try:
            run = self.open()
            try:
                self.send(run)
            finally:
                run.finish()
            mode = "offline" if run.offline else "online"
            write(os.path.join(self.config.out_dir, "wandb", "sent-" + self.stage), mode.encode())
            if run.offline and self.stage == "gpt":
                print("W&B: recorded; with a key `bash run.sh` sends it, as does  wandb sync",
                      shlex.quote(run.sync_dir))
        except ImportError:
            print("W&B: `pip install -U wandb` (0.29 or newer) shows metrics and keeps files; "
                  "going on without")
        except Exception as error:                           # wandb raises all kinds
            print(f"W&B: {brief(error)}: all is in {self.config.out_dir}, to be sent later",
                  file=sys.stderr)

    def open(self):
        """-> a W&B run: online if there is a key, else recorded on disk"""
        api, out_dir = connect(self.config), os.path.abspath(self.config.out_dir)
        import wandb
        if [*map(int, wandb.__version__.split(".")[:2])] < [0, 29]:    # the oldest one tried
            raise ImportError
        *entity, project, name = self.path.split("/")
        run_id = f"{name}-{self.stage}-{fingerprint(self.facts)[:6]}"
        staging = os.environ["WANDB_DATA_DIR"] = f"{out_dir}/wandb/staging-{self.stage}"
        for old in [staging, *glob.glob(f"{glob.escape(out_dir)}/wandb/*run-*-{run_id}")]:
            shutil.rmtree(old, ignore_errors=True)           # all is sent or recorded anew
        with contextlib.suppress(ValueError, wandb.CommError):         # there is none yet
            if api and api.run("/".join([*entity, project, run_id])).state == "running":
                print("W&B: this run seems alive elsewhere (so does a killed one, for minutes)",
                      file=sys.stderr)
        run = wandb.init(
            mode="online" if api else "offline", resume="allow" if api else None, dir=out_dir,
            entity="".join(entity) or None, project=project, group=name, name=self.stage, id=run_id,
            job_type=self.stage, config=self.facts, reinit="create_new", settings=dict(
                console="off", init_timeout=15, finish_timeout=20, finish_timeout_raises=True))
        url = run.url or f"recording {self.stage}: see  wandb leet {self.config.out_dir}/wandb"
        print(f"W&B: {url}\n", end="")                       # one piece: another thread prints, too
        return run

    def send(self, run):
        import wandb
        outputs, inputs = artifacts(self.config, self.stage)
        told = os.path.exists(os.path.join(self.config.out_dir, "wandb", "sent-tokenizer"))
        if not (run.offline and told):                       # what W&B has is not sent again
            self.put(run, run.log_artifact if run.offline else run.use_artifact, inputs)
        samples, sent = [], time.time()
        for row in iter(self.rows.get, None):
            step = int(row["step"])
            if "sample" in row:
                samples.append([step, json.loads(row["sample"])])
                row = {name: value for name, value in row.items() if name != "sample"}
            if step >= run.starting_step:                    # what a killed session sent is there
                run.log(row, step=step)
            if not run.offline and time.time() - sent > 60 * self.config.upload_minutes:
                try:
                    self.put(run, run.log_artifact, outputs)
                except Exception as error:                   # the next upload may work
                    print(f"W&B: no upload: {brief(error)}", file=sys.stderr)
                sent = time.time()
        if samples and step >= run.starting_step:
            file = os.path.join(self.config.out_dir, "curves.png")
            picture(file, draw_curves, curves(self.config))
            image = {"curves": wandb.Image(file)} if os.path.exists(file) else {}
            table = wandb.Table(columns=["step", "sample"], data=samples)
            run.log({"samples": table, **image}, step=step)
        self.put(run, run.log_artifact, outputs)

    def put(self, run, publish, artifacts):
        """Sends new versions; once one is safe, older ones are deleted: storage does not grow."""
        import wandb
        api, facts = connect(self.config), dict(self.facts)            # raises rather than hangs
        for name, files in artifacts.items():
            state = api and name == "gpt-state" and latest(api, f"{self.path}-{name}")
            there = state.metadata if state else {}
            if there.get("origin") == facts.get("origin") and age(there) > age(facts):
                raise OSError(f"step {there['step']} of this run is there, from another machine")
            kind = {"data": "dataset", "tokenizer": "tokenizer"}.get(name, "model")
            artifact = wandb.Artifact(f"{run.group}-{name}", kind, metadata=facts)
            for inside, file in files.items():
                if os.path.exists(file):
                    artifact.add_file(file, inside, skip_cache=True)
            publish(artifact, aliases=["latest", "best"])
            if not run.offline:
                artifact.wait(600)
                shutil.rmtree(os.environ["WANDB_DATA_DIR"], ignore_errors=True)
                for old in artifact.collection.artifacts():
                    if "latest" not in old.aliases:
                        old.delete(delete_aliases=True)

def age(facts):
    return facts.get("branch", -1), facts.get("step", -1)

def fingerprint(facts):
    """-> 16 hex digits that identify a run, on any machine"""
    return checksum({name: value for name, value in facts.items() if name not in LATER})

def about(saved):
    """A checkpoint -> the facts that determine its numbers; origin: its fingerprint at step 0"""
    facts = {name: value for name, value in saved["config"].items()
             if type(value) in (int, float) and name not in SESSION}
    facts |= {name: saved[name] for name in ("branch", "text", "tokenizer", "step")}
    return {**facts, "origin": saved.get("origin") or fingerprint(facts)}

def artifacts(config, stage):
    """-> what a stage writes, what it reads, each {artifact: {name in it: path}}"""
    at = functools.partial(os.path.join, config.out_dir, stage.replace("-", "_"))
    inputs = {"data": {f"{n:06}.txt": path for n, path in enumerate(find(config.input))}}
    if config.tokenizer != "bytes":
        inputs["tokenizer"] = {"tokenizer.json": config.tokenizer}
    outputs = {name: {file: at(file) for file in FILES[stage][name]} for name in FILES[stage]}
    return (outputs, inputs) if outputs else (inputs, {})    # tokenizer: what all others read

def sync(config):
    """Fetches what W&B has and out_dir lacks, then sends what W&B lacks. Trains nothing."""
    config = fetch(config)
    if find(config.input):                                   # else it is for run.sh to get a text
        send(config)

def send(config):
    """Sends what is finished in out_dir but not yet at W&B (without a key: in its record)."""
    mode = "online" if connect(config) else "offline"
    for stage in FILES:
        at = functools.partial(os.path.join, config.out_dir, stage.replace("-", "_"))
        last = config.tokenizer if stage == "tokenizer" else at("result.json")
        sent = os.path.join(config.out_dir, "wandb", "sent-" + stage)
        made, told = (os.path.getmtime(p) if os.path.exists(p) else 0 for p in (last, sent))
        if not made or made <= told and read(sent)[0] in ("online", mode):
            continue
        rows = [*rows_of(at("metrics.csv"))]                 # bigram_counts has none
        if stage == "tokenizer":
            tokenizer = Tokenizer.load(last)
            facts = {"text": checksum(read(config.input)), "tokenizer": tokenizer.fingerprint,
                     "pattern": tokenizer.pattern, "vocab_size": tokenizer.vocab_size}
        elif stage == "gpt":
            facts = about(load([at("state.pt")], "gpt", config, ANEW)[0])
        else:
            facts = result_of(last)
            rows += [{"step": len(rows), **{name: facts[name] for name in ("val_loss", "val_bpb")}}]
        Track(config, stage, facts, rows).end(3600)

# -----------------------------------------------------------------------------
# tracking: Weights & Biases -> out_dir, so that a run goes on where another machine left it

def remembered(config):
    """-> config with the run, text and tokenizer of out_dir's checkpoint; facts about it, or {}"""
    for name in "state.pt", "stable.pt":
        path = os.path.join(config.out_dir, "gpt", name)
        with contextlib.suppress(Exception):                 # none, or damaged: the next one
            saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            here, kept = about(saved), saved["config"]
            names = {"run", "tokenizer", "input"} - given(config)
            if not find(kept["input"]):                      # the text has moved
                names.discard("input")
            return decide(config, **{name: kept[name] for name in names}), here
    return config, {}

def fetch(config):
    """Fetches what W&B has and out_dir lacks -> config, with the paths where it is now"""
    config, here = remembered(config)
    data = os.path.join(config.out_dir, "data")              # where an earlier session put the text
    if not find(config.input) and find(data):
        config = decide(config, input=data)
    try:
        api = connect(config)
        return bring(api, config, here) if api else config
    except OSError as error:
        if config.run and not here:
            raise UserError(f"W&B: {error}") from None
        print(f"W&B: {error}; going on with what is here", file=sys.stderr)
        return decide(config, wandb="offline")

def bring(api, config, here):
    """
    Downloads what W&B has of the run and out_dir lacks: text, tokenizer, a checkpoint if it is
    further on than ours (whose facts are in `here`), and with --sync the other models.
    """
    at, path = functools.partial(os.path.join, config.out_dir), run_path(config)
    def obtain(name, folder):
        if download(api, f"{path}-{name}", folder):
            write(at("wandb", "sent-" + name.removesuffix("-state")), b"online")
            return True
    if not find(config.input) and download(api, path + "-data", at("data.tmp")):
        os.rename(at("data.tmp"), at("data"))
        config = decide(config, input=at("data"))
    for name in BIGRAMS if config.sync else ():
        if not os.path.exists(at(name.replace("-", "_"), "model.pt")):
            obtain(name, at(name.replace("-", "_")))
    state = latest(api, path + "-gpt-state")
    there = state.metadata if state else {}
    if config.tokenizer != "bytes" and not os.path.exists(config.tokenizer):
        if there.get("tokenizer") == "bytes":
            config = decide(config, tokenizer="bytes")
        elif obtain("tokenizer", config.out_dir):
            config = decide(config, tokenizer=at("tokenizer.json"))
    if not there:
        return config
    mine = {"origin": here.get("origin")}
    if not here:                                             # no checkpoint of ours to compare
        mine = {"text": checksum(read(config.input)),
                "tokenizer": Tokenizer.load(config.tokenizer).fingerprint}
        if not config.run:                                   # a named run may change its settings
            mine |= {name: getattr(config, name) for name in given(config) - LATER}
    if any(there.get(name, value) != value for name, value in mine.items()):
        refusal = UserError if config.run else OSError       # OSError: fetch() goes on without W&B
        raise refusal(
            f"W&B has {path} with other settings: --fresh replaces it, another --run leaves it")
    if age(there) > age(here):
        with contextlib.suppress(FileNotFoundError):
            os.remove(at("gpt", "model.pt"))                 # outdated
        obtain("gpt-state", at("gpt"))
        print(f"W&B: {path} was left at step {there['step']}")
    return config

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
    for work in explain, plot, tune, sync, sample:           # each has a flag of its name
        if work.__name__ in given(config) and getattr(config, work.__name__) is not False:
            return work(config)
    train(config)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # in a notebook: argv is Jupyter's
        print('type  train(Config(input="input.txt", tokenizer="bytes"))\n'
              'then  sample(Config(prompt="ROMEO:"))')
    else:
        main()
