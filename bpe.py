# /// script
# requires-python = ">=3.10"
# dependencies = ["regex"]
# ///
"""
bpe.py: raw text -> a tokenizer, by byte-level byte pair encoding.

    python bpe.py --input input.txt --vocab-size 1024    # train, save out/tokenizer.json
    python bpe.py --encode "To be, or not to be"         # text -> ids
    python bpe.py --decode "403 308 44"                  # ids -> text
    python bpe.py --show "To be, or not to be"           # the text cut into its tokens

A text is UTF-8 bytes; the 256 bytes are the first tokens. Training glues the pair of neighbouring
tokens that occurs most often into a new token, again and again: "t" "h" -> "th", "th" "e" -> "the".
Encoding replays those merges in the order they were learned. A regex first splits the text into
chunks (roughly words), and no token ever crosses from one chunk to the next.
In slow motion (learn() does the same, much faster):

    for new in range(256, vocab_size - 1):
        pair, count = Counter(zip(ids, ids[1:])).most_common(1)[0]
        ids = replace each pair in ids by new

Left out: normalisation (the text that goes in comes out, byte for byte), special tokens other than
<|endoftext|>, and any package but `regex`.
"""
import argparse, builtins, contextlib, functools, gc, glob, hashlib, heapq, itertools, json
import multiprocessing, operator, os, re, shutil, signal, sys, threading, time, unicodedata
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path

try:
    import regex
except ImportError as missing:
    sys.exit(f"error: {missing}: `pip install regex`; or, if `bash run.sh` has installed it, "
             "`source .venv/bin/activate`")

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
    tokenizer: str = flag("out/tokenizer.json", "file to save to, or to encode and decode with")
    vocab_size: int = flag(1024, "number of tokens: 256 bytes, the merges, and <|endoftext|>")
    pattern: str = flag("", "regex that splits text into chunks; empty: GPT-4's, SPLIT in bpe.py")
    encode: str = flag("", "print the ids of this text (- reads stdin)")
    decode: str = flag("", 'print the text of these ids, "72 105" (- reads stdin)')
    show: str = flag("", "print this text cut into tokens, with their ids (- reads stdin)")

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
# more of Tokenizer, for this script alone: bytes in, text out, a file to keep

    def encode_bytes(self, data):
        """Any bytes, UTF-8 or not -> array of ids; decode_bytes is the exact inverse."""
        return self.encode(data.decode("utf-8", "surrogateescape"))

    def decode_bytes(self, ids):
        """ids -> bytes. Raises UserError for an id that is not in the vocabulary."""
        ids = list(ids)
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"no token has the id {i}: the last one is {self.eot}")
        return b"".join([self.pieces[i] for i in ids])

    def decode(self, ids):
        """ids -> str; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path):
        """Writes a Hugging Face tokenizer.json, which spells each byte as a visible character."""
        names = [piece.decode("latin-1").translate(VISIBLE) for piece in self.pieces[:self.eot]]
        saved = {
            "version": "1.0",
            "added_tokens": [{"id": self.eot, "content": EOT, "special": True, "normalized": False,
                              "single_word": False, "lstrip": False, "rstrip": False}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": False}]},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
            "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)},
                      "merges": [f"{names[left]} {names[right]}" for left, right in self.merges]}}
        saved["model"]["fingerprint"] = self.fingerprint = checksum(saved)       # others ignore it
        write(path, json.dumps(saved, ensure_ascii=False, indent=1).encode())

# GPT-2's bytes_to_unicode: bytes that would be invisible become chr(256), chr(257), ...
INVISIBLE = [b for b in range(256) if b == 32 or not chr(b).isprintable()]
VISIBLE = {b: 256 + n for n, b in enumerate(INVISIBLE)}      # a space is "Ġ", a newline "Ċ"

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
# train: count pairs of neighbours, merge the most frequent one, repeat

def count_chunks(texts, pattern=SPLIT):
    """list of str -> {chunk: count}. A text repeats its chunks: learn() works on distinct ones."""
    chunks = Tokenizer([], pattern).chunks
    def count(part):
        return Counter(itertools.chain.from_iterable(chunks(part)))
    parts = [part for text in texts for part in blocks(text, 1 << 20, pattern)]
    counts = Counter()
    for _, new in zip(progress("characters split:", parts), spread(count, parts)):
        counts.update(new)
    return counts

def learn(counts, n_merges):
    """
    {chunk: count}, number of merges -> list of (left id, right id); fewer when no pair is left.

        words          pairs by count, ties to the smallest ids     merge
        hug pug hugs   (u,g) 3, (h,u) 2, (g,s) 1, (p,u) 1           (u,g) -> X = 256
        hX  pX  hXs    (h,X) 2, (p,X) 1, (X,s) 1                    (h,X) -> Y = 257
        Y   pX  Ys     (p,X) 1, (Y,s) 1                             (p,X) -> Z = 258

    A merge changes only the words that hold its pair, and each pair that is new in them contains
    the new token: only those are counted (counting these words afresh takes seven times as long).
    After that a count can only fall, so an entry of the heap may be too high: it is corrected when
    it comes to the top. A word is a str of tokens, a pair a str of two, as in the Tokenizer.
    """
    words = [chunk.encode("utf-8", "surrogateescape").decode("latin-1") for chunk in counts]
    freqs, where = list(counts.values()), defaultdict(list)  # where: pair -> indices of its words
    for i, word in enumerate(words):
        for pair in map(operator.add, word, word[1:]):       # hug: hu, ug
            where[pair].append(i)
    count = {pair: sum(map(freqs.__getitem__, places)) for pair, places in where.items()}
    heap = [(-n, pair) for pair, n in count.items()]         # smallest first: the largest count
    heapq.heapify(heap)
    merges, ticks = [], progress("merges:", range(n_merges), 0.3)      # the first are slowest
    while heap and len(merges) < n_merges:
        n, pair = heapq.heappop(heap)
        if -n != count[pair]:                                # it has fallen since
            if count[pair]:
                heapq.heappush(heap, (-count[pair], pair))
            continue
        (left, right), new, born = pair, chr(256 + len(merges)), defaultdict(list)
        merges.append((ord(left), ord(right)))
        for i in set(where.pop(pair)):                       # some have lost it since: no parts
            before, *parts = words[i].split(pair)            # what is around each occurrence
            words[i] = words[i].replace(pair, new)
            for part in parts:                               # new pairs, to the left and the right
                born[before[-1:] + new].append(i)
                born[new + part[:1]].append(i)
                before = part or new
        born.pop(new, None)                                  # at the end of a word there is no pair
        for p, places in born.items():
            where[p], count[p] = places, sum(map(freqs.__getitem__, places))
            heapq.heappush(heap, (-count[p], p))
            # before the merge (h,X) was (h,u), (X,s) was (g,s), (X,X) was (g,u): now rarer by that
            count[p[0].replace(new, right) + p[1].replace(new, left)] -= count[p]
        next(ticks)
    return merges

@plainly
def train(config):
    """Config -> Tokenizer, saved at config.tokenizer."""
    if not 257 <= config.vocab_size <= 1 << 20:
        raise UserError(f"--vocab-size is 257 (256 bytes and {EOT}) or more, 1,048,576 at the most")
    pattern = config.pattern or SPLIT
    try:
        if regex.match(pattern, ""):
            raise regex.error("it matches the empty text")
    except regex.error as error:
        raise UserError(f"the pattern {pattern!r} splits no text: {error}") from None
    if config.tokenizer == "bytes":
        raise UserError("--tokenizer bytes has nothing to learn: give the name of a file")
    start = time.time()
    counts = count_chunks(split(read(config.input))[0], pattern)
    print(f"{sum(counts.values()):,} chunks in the training text, {len(counts):,} different ones")
    gc.disable()                                             # it would scan millions of lists
    try:
        tokenizer = Tokenizer(learn(counts, config.vocab_size - 257), pattern)
    finally:
        gc.enable()
    if tokenizer.vocab_size < config.vocab_size:
        print(f"no pair is left to merge: {tokenizer.vocab_size:,} tokens, "
              f"not {config.vocab_size:,}")
    tokenizer.save(config.tokenizer)
    seconds = time.time() - start
    print(f"{tokenizer.vocab_size:,} tokens | {seconds:.1f} s | saved {config.tokenizer}")
    return tokenizer

# -----------------------------------------------------------------------------
# show: a text cut into its tokens

def visible(piece):
    """bytes -> str in which everything shows: blanks as · ↵ →, the unprintable like \\x00."""
    text = piece.decode("utf-8", "backslashreplace").translate({32: "·", 10: "↵", 9: "→"})
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

def tree(tokenizer, i, seen):
    """id -> lines: a token, below it the two it was made of, down to bytes; each merge once."""
    yield f"{visible(tokenizer.pieces[i])} {i}"
    if 256 <= i < tokenizer.eot and i not in seen:
        seen.add(i)
        left, right = tokenizer.merges[i - 256]
        for child, branch, stem in (left, "├─ ", "│  "), (right, "└─ ", "   "):
            for n, line in enumerate(tree(tokenizer, child, seen)):
                yield (stem if n else branch) + line

def cells(text):
    """str -> columns it takes in a terminal: 2 for a Chinese character, 0 for a combining accent"""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    accents = sum(unicodedata.category(c)[0] == "M" for c in text)
    return len(text) + wide - accents

def show(tokenizer, data):
    """Prints the tokens of a text above their ids, then the merges that made the longest one."""
    ids, top, bottom = tokenizer.encode_bytes(data), "", ""
    columns, environ = shutil.get_terminal_size((100, 24)).columns, os.environ
    colour = sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    tints = itertools.cycle((151, 153, 223, 183, 217))       # of a terminal's 256 colours
    for i, tint in zip(ids, tints):
        token, number = visible(tokenizer.pieces[i]), str(i)
        width = max(cells(token), len(number))
        token, number = token + " " * (width - cells(token)), number.ljust(width)
        if bottom and len(bottom + number) >= columns:       # this line is full
            print(top, bottom, sep="\n")
            top = bottom = ""
        top += f"\033[30;48;5;{tint}m{token}\033[0m " if colour else token + "|"
        bottom += number + " "
    print(top, bottom, sep="\n")
    longest = max(ids, key=lambda i: len(tokenizer.pieces[i]), default=0)
    if longest >= 256:
        print("\nthe longest token, and the merges that made it:")
        print(*tree(tokenizer, longest, set()), sep="\n")

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
    asked = given(config) & {"encode", "decode", "show"}
    if not asked:
        return train(config)
    tokenizer = Tokenizer.load(config.tokenizer)
    for name in sorted(asked):
        typed = getattr(config, name)
        data = open(0, "rb", closefd=False).read() if typed == "-" else os.fsencode(typed)
        if name == "encode":
            print(*tokenizer.encode_bytes(data))
        elif name == "decode":
            if not all(re.fullmatch(rb"-?\d{1,18}", word) for word in data.split()):
                raise UserError('--decode takes ids, numbers with blanks between them: "72 105"')
            text = tokenizer.decode_bytes(map(int, data.split()))
            if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
                print(text.decode("utf-8", "replace"))
            else:                                            # file or pipe: exactly these bytes
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
        else:
            show(tokenizer, data)

if __name__ == "__main__":
    if "kernel_launcher" in sys.argv[0]:                     # in a notebook: argv is Jupyter's
        print('type  tokenizer = train(Config(input="input.txt"))  and  tokenizer.encode("To be")')
    else:
        main()
