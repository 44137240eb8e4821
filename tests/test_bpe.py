"""bpe.py against rustbpe (merges), tokenizers and tiktoken (ids), a slow reference, and itself."""
import gc, itertools, json, os, random, re, signal, subprocess, sys, time, unicodedata
from collections import Counter
from pathlib import Path

import pytest, rustbpe, tiktoken, tokenizers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import bpe
from bpe import EOT, SPLIT, Tokenizer, UserError, count_chunks, learn

PROSE = """It's a tokenizer's job, isn't it? WE'LL see: they've 12345 tokens, I'd say 3.14159 or 1,000,000 of them.
	def f(x):  # tabs, too
        return {"a": [x ** 2, -x], 'b': "naïve café — “quoted” …"}

Москва, Αθήνα, 東京は日本の首都です。 오늘은 날씨가 좋다. مرحبا بالعالم, שלום עולם, नमस्ते दुनिया, สวัสดีชาวโลก.
The cat sat on the mat; the dog sat on the log. The cat sat, the dog sat, the cat and the dog sat.\r\n\r\n""" * 3

NASTY = ["", " ", "\n", "\r\n", "\0", "\0\0a\0", "a\r\nb\rc\n\r\n\n d", "a=b;//c\n\n\n!!!\r\n", "=" * 120 + "\n",
         "\x1c\x1d\x1e\x1f", " \x1cx\x1d \x1e\n\x1f1", "a\x85b\x85 \x85\n", "x\u2028y\u2029 \u2028z", "\u00a0\u00a0a \u3000\u3000b\u3000",
         "'ſ 'S 's it'ſ i'ſt", "'LL 'lL 'Ve 'rE 'K", "ﬀ ﬁ ﬂ ﬆ ß ẞ İ ı ǅ", "e\u0301o\u0308 \u0301\u0301 n\u0303a",
         "👋🏽👩‍👩‍👧‍👦 🇩🇪🇩 ☺️", "\U0001F600" * 40, "0123456789" * 7, "١٢٣٤٥ ½⅓Ⅷ 五百", "東京都は日本の首都です。", "한국어",
         "مَرْحَبًا بِالعَالَمِ ١٢٣", "नमस्ते", "สวัสดี", " " * 50, " " * 50 + "a", "\t\t \n \t\n  x", "   \n\n   \n", "a" * 300,
         "ab" * 300, EOT, f"a{EOT}b{EOT}", "<|endoftext|", "\ufeff\ufffd\ufffe"]

# The libraries' tables know the characters of Unicode 15 alike; Python's may be older, and where it is newer 3.2 will do.
KNOWN = unicodedata if tuple(map(int, unicodedata.unidata_version.split("."))) <= (15, 0, 0) else unicodedata.ucd_3_2_0
ASSIGNED = [chr(i) for i in range(sys.maxunicode + 1) if KNOWN.category(chr(i)) not in ("Cn", "Cs")]
POOLS = ["ab", "ab \n", "aab'sS \r\n", " \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u2028a1!", "0123456789 a.", "abcdefgh     .\n",
         "aé東\U0001F600 \u0301\n1'", "".join(map(chr, range(128))), [c for c in ASSIGNED if c < "\u3000"], ASSIGNED]


def random_text(rng, longest=60):
    pool = rng.choice(POOLS)
    return "".join(rng.choice(pool) for _ in range(rng.randrange(longest)))

def trained(text, vocab_size, pattern=SPLIT):
    return Tokenizer(learn(count_chunks([text], pattern), vocab_size - 257), pattern)

def as_tiktoken(tokenizer):
    ranks = {piece: i for i, piece in enumerate(tokenizer.pieces[:tokenizer.eot])}
    assert len(ranks) == tokenizer.eot                       # no two tokens of the same bytes
    return tiktoken.Encoding("ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={EOT: tokenizer.eot})

def as_hugging_face(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

def rust_pieces(text, vocab_size, pattern=SPLIT):
    oracle = rustbpe.Tokenizer()
    oracle.train_from_iterator([text], vocab_size - 1, pattern=pattern)
    return [piece for piece, _ in sorted(oracle.get_mergeable_ranks(), key=lambda entry: entry[1])]

def run(*flags, cwd, stdin=b"", env={}):
    return subprocess.run([sys.executable, str(ROOT / "bpe.py"), *flags], cwd=cwd, input=stdin, capture_output=True,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env}, timeout=60)

@pytest.fixture(scope="module")
def prose():
    return trained(PROSE, 500)

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and a tokenizer trained on it by the command."""
    path = tmp_path_factory.mktemp("bpe")
    (path / "input.txt").write_text(PROSE * 3, encoding="utf-8", newline="")
    assert run("--vocab-size", "400", cwd=path).returncode == 0
    return path


# --- merges ---

def test_merges_worked_by_hand():
    # hug pug hugs: (u,g) 3 | hX pX hXs: (h,X) 2 | Y pX Ys: (p,X) and (Y,s), once each: the smaller ids first
    h, u, g, p, s = b"hugps"
    assert learn({"hug": 1, "pug": 1, "hugs": 1}, 4) == [(u, g), (h, 256), (p, 256), (257, s)]
    # aaab: (a,a) counts twice and is merged from the left | Xab: (a,b) before (X,a), its ids are smaller
    assert learn({"aaab": 1}, 9) == [(97, 97), (97, 98), (256, 257)]
    # a count of 2 in one chunk equals one in each of two
    assert learn({"abxab": 1, "cd": 2}, 2) == [(97, 98), (99, 100)]

def slow_learn(counts, n_merges):
    """Counts everything anew for every merge."""
    words, merges = {tuple(chunk.encode()): n for chunk, n in counts.items()}, []
    while len(merges) < n_merges:
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        replaced = {}
        for word, n in words.items():
            new, i = [], 0
            while i < len(word):
                found = word[i:i + 2] == best
                new.append(256 + len(merges) if found else word[i])
                i += 1 + found
            replaced[tuple(new)] = n
        words = replaced
        merges.append(best)
    return merges

@pytest.mark.parametrize("seed", range(24))
def test_merges_equal_recounting_and_rustbpe(seed):
    rng = random.Random(seed)
    text = "".join(random_text(rng, 200) for _ in range(10))
    vocab_size = rng.choice([257, 258, 270, 400, 5000])      # the largest: more than any of these texts supports
    for pattern in SPLIT, r"[\s\S]+", r"\w+|\W+":
        ours = trained(text, vocab_size, pattern)
        assert ours.merges[:60] == slow_learn(count_chunks([text], pattern), min(vocab_size - 257, 60))
        assert ours.pieces[:-1] == rust_pieces(text, vocab_size, pattern)

def test_merges_equal_rustbpe_on_prose(prose):
    assert prose.vocab_size == 500 and prose.pieces[:-1] == rust_pieces(PROSE, 500)

@pytest.mark.parametrize("alphabet", ["a", "ab", "abc", "ab \n", "aé"])
def test_every_token_is_the_encoding_of_its_own_bytes(alphabet, tmp_path):
    """So no two have the same bytes, and merging by pair (ours) or by the merged bytes (tiktoken) is the same."""
    rng = random.Random(alphabet)
    for _ in range(15):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 400)))
        ours = trained(text, 1 << 12, r"[\s\S]+")            # one chunk, merged until it is one token
        oracles = as_tiktoken(ours), as_hugging_face(ours, tmp_path)
        assert all(list(ours.encode_bytes(piece)) == [i] for i, piece in enumerate(ours.pieces[:-1]))
        for _ in range(20):
            probe = "".join(rng.choice(alphabet) for _ in range(rng.randrange(60)))
            ids = ours.encode(probe).tolist()
            assert ids == oracles[0].encode_ordinary(probe) == oracles[1].encode(probe).ids

def test_processes_count_like_one(prose, monkeypatch):
    monkeypatch.setitem(sys.modules, "bpe", bpe)             # processes look the work up by its name
    rng = random.Random(0)                                   # long words, so that there are few
    words = ["".join(rng.choices("abcdé", k=400)) + rng.choice(["", "\n", " 12 ", "\n\n  "]) for _ in range(99)]
    text = " ".join(rng.choices(words, k=21_000))
    assert len(text) > 1 << 23                               # else it stays in one process
    counts = count_chunks([text, "the end"])
    monkeypatch.setattr(sys, "platform", "one without fork")
    assert count_chunks([text, "the end"]) == counts

@pytest.mark.skipif(sys.platform != "linux", reason="one process does all")
def test_processes_that_are_killed(tmp_path):
    """One of them: the first one does its work. That one: the others do not stay."""
    (tmp_path / "input.txt").write_text(PROSE * 20_000)
    command = [sys.executable, str(ROOT / "bpe.py"), "--input", "input.txt"]
    for victim in (1, 0):
        child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while len(family := [child.pid, *children(child.pid)]) < 2:
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(family[victim], signal.SIGKILL)
        errors = child.communicate(timeout=60)[1]
        assert victim == 0 or (child.returncode, errors) == (0, "")
        end = time.time() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in family):
            assert time.time() < end
            time.sleep(0.01)

def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

# --- ids ---

def test_ids_equal_tokenizers_and_tiktoken(prose, tmp_path):
    rng = random.Random(0)
    tik, hf = as_tiktoken(prose), as_hugging_face(prose, tmp_path)
    for text in [*NASTY, PROSE, *(random_text(rng) for _ in range(1500))]:
        ids = prose.encode(text).tolist()
        assert ids == tik.encode_ordinary(text), repr(text)
        if EOT not in text:
            assert ids == hf.encode(text).ids, repr(text)
        assert prose.encode(text, {EOT}).tolist() == hf.encode(text).ids == tik.encode(text, allowed_special={EOT})
        assert prose.decode(ids) == text == hf.decode(ids, skip_special_tokens=False)

def test_split_equals_tiktokens_on_every_character(prose):
    tik = as_tiktoken(prose)
    for i in range(0, len(ASSIGNED), 5000):
        text = "".join(f"x{c}y {c}{c} 1{c} '{c}\n{c}" for c in ASSIGNED[i:i + 5000:1 + 4 * (i > 20000)])
        assert prose.encode(text).tolist() == tik.encode_ordinary(text)

def test_any_bytes_come_back(prose):
    rng = random.Random(0)
    samples = [b"", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", bytes(range(256)) * 3, b"\r\n\0\xfe a"]
    for data in samples + [rng.randbytes(rng.randrange(200)) for _ in range(500)]:
        for tokenizer in prose, Tokenizer([]), Tokenizer([], r"\w+"):
            assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data

def test_the_ascii_twin_splits_as_the_pattern_does(prose):
    every = "".join(map(chr, range(128)))
    kinds = "ae1!' \t\n\r\x0b\x1c\x00_sStl"                   # one of each kind of character that the pattern tells apart
    texts = itertools.chain(map("".join, itertools.product(every, repeat=2)), map("".join, itertools.product(kinds, repeat=4)))
    for text in texts:
        assert bpe.ASCII.findall(text) == prose.regex.findall(text), repr(text)
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(every) for _ in range(80))
        assert bpe.ASCII.findall(text) == prose.regex.findall(text), repr(text)

def test_blocks_split_like_the_whole(prose):
    kinds = "é1!' \t\n\r\x1c\x85\u2028"
    for text in itertools.chain(map("".join, itertools.product(kinds, repeat=4)), NASTY, [PROSE]):
        whole = prose.regex.findall(text)
        for size in 1, 2, 7:
            pieces = list(bpe.blocks(text, size))
            assert "".join(pieces) == text and all(pieces)
            assert [chunk for piece in pieces for chunk in prose.regex.findall(piece)] == whole, (text, size)
    assert list(itertools.chain(*prose.chunks(PROSE * 20))) == prose.regex.findall(PROSE * 20)

def test_long_chunks_are_merged_like_short_ones(prose):
    rng, whole = random.Random(0), trained(PROSE, 500, r"[\s\S]+")
    for tokenizer in prose, whole, trained("aab" * 50, 300, r".+"):
        for _ in range(10):
            text = "".join(rng.choice(["a", "b", "the ", " cat", "\n", "東"]) for _ in range(400))
            parts = [rng.randbytes(3).hex() * 200, "a" * 1001, text]
            for part in parts:
                word = part.encode().decode("latin-1")
                while pairs := [tokenizer.merged[p] for p in zip(word, word[1:]) if p in tokenizer.merged]:
                    word = word.replace(tokenizer.pair[min(pairs)], min(pairs))
                assert tokenizer._tokens(part) == word

def test_learning_from_a_text_without_a_blank():
    dna = "".join(random.Random(0).choices("acgt", k=300_000))
    assert trained(dna, 400).pieces[:-1] == rust_pieces(dna, 400)

def test_a_megabyte_without_a_blank(prose):
    text = "a" * 1_000_000
    assert prose.decode(prose.encode(text)) == text
    squares = trained("a" * 5000, 300)
    assert squares.decode(squares.encode(text)) == text and len(squares.encode(text)) < 1000

def test_special_text_is_text_unless_allowed_by_name(prose):
    text = f"one{EOT}two"
    assert prose.eot not in prose.encode(text) and prose.decode(prose.encode(text)) == text
    assert list(prose.encode(text, {EOT})) == [*prose.encode("one"), prose.eot, *prose.encode("two")]
    assert prose.decode([prose.eot]) == EOT

def test_bytes_needs_no_file():
    tokenizer = Tokenizer.load("bytes")
    assert tokenizer.vocab_size == 257 and list(tokenizer.encode("aé")) == [97, 195, 169] and tokenizer.pieces[256] == EOT.encode()

@pytest.mark.parametrize("vocab_size, typecode", [(257, "H"), (1 << 16, "H"), ((1 << 16) + 1, "I")])
def test_ids_of_any_size(vocab_size, typecode):
    """Ids from 0xD800 on are surrogates when seen as characters; above 65,535 ids take four bytes."""
    pairs = itertools.islice(itertools.product(range(256), range(256)), max(0, vocab_size - 257))
    tokenizer = Tokenizer([*pairs][::-1], r"[\s\S]{2}")
    assert tokenizer.vocab_size == vocab_size and tokenizer.encode("").typecode == typecode
    data = bytes(random.Random(0).choices(range(128), k=10000))
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    if vocab_size > 257:
        assert len(tokenizer.encode_bytes(data)) == 5000 and max(tokenizer.encode_bytes(data)) > 0xDFFF

def test_ids_out_of_range(prose):
    for i in -1, 500, 10 ** 30:
        with pytest.raises(UserError, match=f"no token has the id {i}"):
            prose.decode([i])


# --- other patterns ---

@pytest.mark.parametrize("pattern", [r"\w+|\s+|[^\w\s]+", r"\p{L}+", r"[a-m]+", r"(?<=t)h|e(?=\s)", r"(a|b)+c?", r"(\w)\1|.", r"\S+ ?|\s"])
def test_another_pattern_is_saved_and_used(pattern, tmp_path):
    """Also those that leave gaps (a gap is a chunk) or capture groups."""
    ours = trained(PROSE, 400, pattern)
    assert ours.merges != trained(PROSE, 400).merges
    hf = as_hugging_face(ours, tmp_path)
    loaded, rng = Tokenizer.load(str(tmp_path / "tokenizer.json")), random.Random(0)
    assert loaded.pattern == pattern and loaded.merges == ours.merges and loaded.fingerprint == ours.fingerprint
    texts = [] if r"\w" in pattern or r"\s" in pattern else [random_text(rng) for _ in range(200)]   # \s, \w differ a bit
    for text in [PROSE, "aabbc hoot bookkeeper", *texts]:
        assert loaded.encode(text) == ours.encode(text) and loaded.decode(loaded.encode(text)) == text
        assert loaded.encode(text).tolist() == hf.encode(text.replace(EOT, "")).ids, repr(text)

@pytest.mark.parametrize("pattern", ["(", "a*", "()", "[z-a]", r"\p{Nonsense}+", "x|"])
def test_a_pattern_that_cannot_be(pattern, folder):
    result = run("--pattern=" + pattern, "--tokenizer", "never.json", cwd=folder)
    assert result.returncode == 1 and result.stdout == b"" and not (folder / "never.json").exists()
    assert result.stderr.startswith(b"error: the pattern") and result.stderr.count(b"\n") == 1


# --- the file and the command ---

def test_saved_file_reads_well_and_loads_the_same(prose, tmp_path):
    prose.save(str(tmp_path / "a.json"))
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert '"h e"' in text and '"Ġt he"' in text and '"model": {' in text
    again = Tokenizer.load(str(tmp_path / "a.json"))
    assert (again.merges, again.pattern, again.fingerprint) == (prose.merges, SPLIT, prose.fingerprint)

def damage(saved):
    """Name -> what may stand in a tokenizer file that is not ours, or not ours any more."""
    text, lines = json.dumps(saved), saved["model"]["merges"]
    def changed(change):
        copy = json.loads(text)
        change(copy)
        return json.dumps(copy)
    return {
        "empty": "", "half": text[:len(text) // 2], "not json": "hello", "not ours": '{"model": {"vocab": {}, "merges": []}}',
        "a list": "[1, 2]", "null": "null", "nested": "[" * 100_000, "binary": "\0\x01\x02", "a number": "7",
        "a merge less": changed(lambda s: s["model"]["merges"].pop()),
        "a merge twice": changed(lambda s: s["model"]["merges"].append(lines[0])),
        "merges swapped": changed(lambda s: s["model"]["merges"].reverse()),
        "a merge of three": changed(lambda s: s["model"]["merges"].__setitem__(3, "a b c")),
        "a merge of none": changed(lambda s: s["model"]["merges"].__setitem__(3, "")),
        "a merge of numbers": changed(lambda s: s["model"]["merges"].__setitem__(3, [1, 2])),
        "an id changed": changed(lambda s: s["model"]["vocab"].__setitem__("a", 5)),
        "an id that is a text": changed(lambda s: s["model"]["vocab"].__setitem__("a", "5")),
        "a normalizer": changed(lambda s: s.update(normalizer={"type": "NFC"})),
        "a prefix space": changed(lambda s: s["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)),
        "another special token": changed(lambda s: s["added_tokens"][0].update(content="<eos>")),
        "a pattern that is no regex": changed(lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="(")),
        "a pattern that is no text": changed(lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=3)),
        "byte fallback": changed(lambda s: s["model"].update(byte_fallback=True))}

def test_a_file_that_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    Tokenizer([(97, 98), (256, 99), (104, 105), (99, 100)]).save(str(path))
    for kind, text in damage(json.loads(path.read_text(encoding="utf-8"))).items():
        path.write_text(text)
        with pytest.raises(UserError, match="damaged, or not written by bpe.py"):
            print(kind, Tokenizer.load(str(path)))

def test_train_command(folder):
    tokenizer = Tokenizer.load(str(folder / "out" / "tokenizer.json"))
    text = PROSE * 3
    assert tokenizer.vocab_size == 400 and tokenizer.merges == trained(text[:int(0.9 * len(text))], 400).merges   # not the last 10%

def test_train_as_a_function(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    tokenizer = bpe.train(bpe.Config(vocab_size=300, tokenizer="module.json"))
    assert tokenizer.vocab_size == 300 and gc.isenabled()
    assert Tokenizer.load("module.json").merges == tokenizer.merges

def test_more_tokens_than_the_text_supports(tmp_path):
    (tmp_path / "input.txt").write_text("abab abab abab abab")
    result = run("--vocab-size", "5000", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.decode().count("not 5,000") == 1
    tokenizer = Tokenizer.load(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.pieces[256:-1] == rust_pieces("abab abab abab ab", 5000)[256:]

def test_encode_and_decode_commands(folder):
    tokenizer = Tokenizer.load(str(folder / "out" / "tokenizer.json"))
    text = "The cat sat: 東京 1234\r\n"
    ids = " ".join(map(str, tokenizer.encode(text))).encode()
    assert run("--encode", text, cwd=folder).stdout == ids + b"\n"
    assert run("--encode", "-", stdin=text.encode(), cwd=folder).stdout == ids + b"\n"
    assert run("--decode", ids.decode(), cwd=folder).stdout == text.encode()
    data = bytes(range(256)) * 2
    assert run("--decode", "-", stdin=run("--encode", "-", stdin=data, cwd=folder).stdout, cwd=folder).stdout == data
    assert run("--encode", "", cwd=folder).stdout == b"\n" and run("--decode", "", cwd=folder).stdout == b""
    assert run("--encode", "ab", "--tokenizer", "bytes", cwd=folder).stdout == b"97 98\n"

def test_show_command(folder):
    result = run("--show", "the cat\n\x1b[2J", cwd=folder)
    tokenizer = Tokenizer.load(str(folder / "out" / "tokenizer.json"))
    out = result.stdout.decode()
    assert "·" in out and "↵" in out and "\\x1b" in out and "\x1b" not in out
    ids = list(map(int, out.splitlines()[1].split()))
    assert tokenizer.decode(ids) == "the cat\n\x1b[2J"
    longest = max(ids, key=lambda i: len(tokenizer.pieces[i]))
    left, right = tokenizer.merges[longest - 256]
    tree = out[out.index("made it"):]
    assert all(f" {i}\n" in tree for i in (longest, left, right)) and "└─" in tree
    assert run("--show", "-", stdin=b"\xff a", cwd=folder).stdout.startswith(b"\\xff|")
    assert run("--show", "", cwd=folder).returncode == 0

def test_show_colours_a_terminal(prose, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    bpe.show(prose, b"the cat")
    assert "\033[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    bpe.show(prose, b"the cat")
    assert "\033" not in capsys.readouterr().out

@pytest.mark.parametrize("flags, says", [
    (["--vocab-size", "256"], "257"), (["--vocab-size", "-1"], "257"), (["--vocab-size", "2000000"], "1,048,576"),
    (["--vocab-size", "many"], "many"), (["--vocab", "300"], "--vocab"), (["--input", "missing.txt"], "missing.txt"),
    (["--input", "empty.txt"], "no text"), (["--input", "nothing/*.txt"], "no text"), (["--tokenizer", "bytes"], "bytes"),
    (["--decode", "x y"], "--decode"), (["--decode", "12 99999"], "99999"), (["--decode", "-1 5"], ""),
    (["--encode", "a", "--tokenizer", "missing.json"], "missing.json"), (["--encode", "a", "--tokenizer", "half.json"], "half.json"),
    (["--show", "a", "--tokenizer", "."], "directory"), (["--encode", "a", "--tokenizer", "input.txt"], "input.txt")])
def test_refusals_are_one_line(flags, says, folder):
    (folder / "empty.txt").write_bytes(b"")
    (folder / "half.json").write_bytes((folder / "out" / "tokenizer.json").read_bytes()[:3000])
    before = (folder / "out" / "tokenizer.json").read_bytes()
    result = run(*flags, cwd=folder)
    message = result.stderr.decode()
    assert result.returncode == 1 and message.startswith("error: ") and message.count("\n") == 1 and says in message
    assert (folder / "out" / "tokenizer.json").read_bytes() == before

def test_progress_is_plain_lines_with_an_eta(monkeypatch, capsys):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(bpe.time, "time", lambda: next(clock))
    assert list(itertools.islice(bpe.progress("merges:", range(100)), 20)) == [*range(20)]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and all(re.fullmatch(r"merges: \d+ of 100 \| eta \d+ s", line) for line in lines)
