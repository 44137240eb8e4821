"""What users get wrong, and what the world does: one line on stderr that says what to do, exit status 1, and nothing lost."""
import json, os, signal, subprocess, sys

import pytest
import torch

from conftest import MODELS, SCRIPTS, load_script, sentences

def tiny(script):
    """Flags with which a script trains in no time, if it does."""
    return {"bpe.py": ["--vocab-size", 260], "bigram_counts.py": ["--tokenizer", "bytes"],
            "bigram_nn.py": ["--tokenizer", "bytes", "--max-steps", 2],
            "gpt.py": "--tokenizer bytes --max-steps 2 --n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2".split()}[script]

def folder(script):
    return "out/" + script[:-3]

# -----------------------------------------------------------------------------
# text

@pytest.mark.parametrize("script", SCRIPTS)
def test_no_text(script, shop):
    (shop.path / "input.txt").unlink()
    error = shop.fails(script, *tiny(script))
    assert "input.txt" in error and "--input" in error and "run.sh" in error
    shop.write("empty.txt", "")
    (shop.path / "folder/.hidden").mkdir(parents=True)
    shop.write("folder/.hidden/text.txt", "hidden text\n" * 100)
    shop.write("folder/.also", "hidden text\n" * 100)
    shop.write("folder/nothing.txt", "")
    for name in ("empty.txt", "folder", "folder/", "nowhere", "*.md", "", "nowhere/**/*.txt"):
        assert "--input" in shop.fails(script, *tiny(script), "--input", name)

@pytest.mark.parametrize("script", MODELS)
@pytest.mark.parametrize("text", ["x", "ab", "\n", "\0", "é"])
def test_too_short(script, text, shop):
    shop.write("input.txt", text)
    assert "input.txt is too short" in shop.fails(script, *tiny(script))

@pytest.mark.parametrize("script", ["bigram_nn.py", "gpt.py"])
def test_text_shorter_than_a_context(script, shop):
    shop.write("input.txt", "0123456789" * 10)               # 90 to train on
    error = shop.fails(script, *tiny(script), "--block-size", 90)
    assert "90 tokens" in error and "91" in error
    shop.ok(script, *tiny(script), "--block-size", 89)

ODD = {"a.txt": b"first\r\nsecond\rthird\n", "b/c/d.bin": b"\xff\xfe\x00\x80abc\xc3", "b/e": "ünïcödé 😀\u2028x\x85y".encode(),
       "empty": b"", ".hidden": b"HIDDEN", "b/.git/config": b"HIDDEN", "z\udcff.txt": b"a name that is not UTF-8",
       "b/<|endoftext|>": b"<|endoftext|>", "spaces in name": b"\0\0\0", "b.txt": b"\xef\xbb\xbfBOM"}

@pytest.fixture
def odd(shop):
    for name, data in ODD.items():
        path = os.fsencode(shop.path / "odd") + b"/" + os.fsencode(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "wb") as f:
                f.write(data)
        except OSError:                                      # macOS has no such names
            pass
    return shop

@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_cannot_be_read(script, odd, monkeypatch, capfd):
    """It is named, and the rest is read. (Who runs the tests may be root, to whom all folders are open.)"""
    module, scandir = load_script(script), os.scandir
    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refuse)
    found = module.find(str(odd.path / "odd"))
    assert found and not any("/odd/b/" in path for path in found)
    assert capfd.readouterr().err == f"skipped: [Errno 13] Permission denied: '{odd.path}/odd/b'\n"

@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_of_odd_files(script, odd):
    """Its files in the order of their paths, byte for byte, without the hidden and the empty ones."""
    module = load_script(script)
    there = {os.fsdecode(path): path.read_bytes() for path in (odd.path / "odd").rglob("*") if path.is_file()}
    seen = {path: data for path, data in there.items() if data and "/." not in path[len(str(odd.path)):]}
    assert len(seen) >= 6
    expected = [seen[path] for path in sorted(seen)]
    for source in (odd.path / "odd", f"{odd.path}/odd/", f"{odd.path}/./odd"):
        texts = module.read(str(source))
        assert [text.encode("utf-8", "surrogateescape") for text in texts] == expected
    train, val = module.split(texts)
    assert "".join(train + val) == "".join(texts) and len("".join(train)) == int(0.9 * len("".join(texts)))

def test_every_script_trains_on_odd_files(odd):
    odd.write("odd/long.txt", sentences(1, 3000))
    odd.ok("bpe.py", "--input", "odd", "--vocab-size", 300)
    odd.ok("bigram_counts.py", "--input", "odd")
    odd.ok("bigram_nn.py", "--input", "odd", "--max-steps", 2)
    odd.ok("gpt.py", "--input", "odd", *tiny("gpt.py")[2:])
    for script in MODELS:
        odd.ok(script, "--sample", "--max-new-tokens", 5)

def test_globs(shop):
    module = load_script("bigram_counts.py")
    for name in ("texts/b.txt", "texts/a.txt", "texts/sub/c.txt", "texts/d.md", "texts/.e.txt", "texts/[x].txt"):
        shop.write(name, name)
    at = str(shop.path) + "/"
    for pattern, names in {"texts/*.txt": ["texts/[x].txt", "texts/a.txt", "texts/b.txt"], "texts/*.md": ["texts/d.md"],
                           "texts/**/*.txt": ["texts/[x].txt", "texts/a.txt", "texts/b.txt", "texts/sub/c.txt"],
                           "texts/[x].txt": ["texts/[x].txt"], "texts/?.txt": ["texts/a.txt", "texts/b.txt"],
                           "texts/*": ["texts/[x].txt", "texts/a.txt", "texts/b.txt", "texts/d.md"]}.items():
        assert module.read(at + pattern) == names, pattern

# -----------------------------------------------------------------------------
# flags

@pytest.mark.parametrize("script", SCRIPTS)
def test_flags_that_are_not(script, shop):
    for flags, word in ((["--nope"], "--nope"), (["--inptu", "x.txt"], "--inptu"), (["--inp", "x.txt"], "--inp"), (["stray"], "stray"),
                        (["--input"], "--input"), (["--no-input", "x"], "--no-input")):
        error = shop.fails(script, *tiny(script), *flags)
        assert word in error and f"{script} --help" in error

@pytest.mark.parametrize("script", MODELS)
def test_flags_of_the_wrong_kind(script, shop):
    for flags in (["--seed", "x"], ["--seed", "1.5"], ["--top-k", ""], ["--temperature", "warm"], ["--sample=yes"], ["--num-samples", "1e3"]):
        error = shop.fails(script, *tiny(script), *flags)
        assert flags[0].split("=")[0] in error and "--help" in error
    assert not (shop.path / "out").exists()

@pytest.mark.parametrize("script", MODELS)
def test_seeds_as_large_as_you_like(script, shop):
    """Or one line that says how large."""
    for seed in (-1, 2 ** 63, 2 ** 64, 10 ** 30, -2 ** 70):
        for flags in ([], ["--sample"]):
            result = shop.run(script, *(flags or tiny(script)), "--seed", seed, "--out-dir", f"out{seed}")
            assert result.returncode == 0 or result.stderr.count("\n") == 1 and "error: " in result.stderr, result.stderr[-300:]

@pytest.mark.parametrize("script", MODELS)
def test_devices_that_are_not_here(script, shop):
    for device in ("abacus", "", "cpu:x", "tpu:0", "hpu") + (() if torch.cuda.is_available() else ("cuda", "cuda:1")):
        assert "--device" in shop.fails(script, *tiny(script), "--device", device)

@pytest.mark.parametrize("flags", [["--n-embd", 15], ["--n-head", 3], ["--n-head", 8, "--n-embd", 8], ["--n-kv-head", 3], ["--n-kv-head", 8],
                                   ["--n-layer", 0], ["--n-head", 0], ["--n-embd", 0], ["--block-size", 0], ["--batch-size", 0],
                                   ["--batch-size", -3], ["--max-steps", 0], ["--max-steps", -5], ["--eval-every", 0], ["--grad-accum", 0],
                                   ["--dropout", 1], ["--dropout", 1.5], ["--dropout", "nan"], ["--decay", 2], ["--decay", -0.5], ["--average", 1],
                                   ["--warmup", -5], ["--matrix-lr", -0.5], ["--vector-lr", "nan"], ["--matrix-lr", "inf"], ["--weight-decay", -0.5],
                                   ["--weight-decay", "nan"], ["--dtype", "fp64"], ["--dtype", "fp16"]], ids=lambda flags: " ".join(map(str, flags)))
def test_numbers_a_transformer_cannot_have(flags, shop):
    if "fp16" in flags and torch.cuda.is_available():
        pytest.skip("a GPU has it")
    error = shop.fails("gpt.py", *tiny("gpt.py"), "--n-head", 2, *flags)
    assert flags[0] in error and not (shop.path / "out/gpt").exists()

@pytest.mark.parametrize("flags", [["--n-embd", -1], ["--max-steps", 0], ["--block-size", 0], ["--batch-size", 0], ["--lr", "nan"], ["--lr", -1],
                                   ["--n-embd", 4, "--weight-decay", -1]], ids=lambda flags: " ".join(map(str, flags)))
def test_numbers_a_bigram_cannot_have(flags, shop):
    assert flags[-2] in shop.fails("bigram_nn.py", *tiny("bigram_nn.py"), *flags)
    assert not (shop.path / "out/bigram_nn").exists()

@pytest.mark.parametrize("script", MODELS)
@pytest.mark.parametrize("flags", [["--top-k", -1], ["--temperature", -0.1], ["--temperature", "nan"], ["--max-new-tokens", -1], ["--num-samples", 0],
                                   ["--num-samples", -1]], ids=lambda flags: " ".join(map(str, flags)))
def test_numbers_sampling_cannot_have(script, flags, trained):
    assert flags[0] in trained.fails(script, "--sample", *flags)

@pytest.mark.parametrize("script", MODELS)
@pytest.mark.parametrize("temperature", ["1e-45", "1e-30", "1e30", "inf"])
def test_extreme_temperatures(script, temperature, trained):
    """The coldest is the likeliest, the hottest anything; or one line says what is wrong."""
    result = trained.run(script, "--sample", "--max-new-tokens", 10, "--temperature", temperature)
    assert result.returncode == 0 or result.stderr.count("\n") == 1 and "--temperature" in result.stderr, result.stderr[-300:]
    if "-" in temperature and not result.returncode:
        assert result.stdout == trained.ok(script, "--sample", "--max-new-tokens", 10, "--temperature", 0)

# -----------------------------------------------------------------------------
# files: the tokenizer's

WORD_LEVEL = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
              "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}}

@pytest.mark.parametrize("script", MODELS)
def test_tokenizer_files(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    train = [*tiny(script)[2:], "--out-dir", "new"]
    data = (shop.path / "out/tokenizer.json").read_bytes()
    error = shop.fails(script, *train, "--tokenizer", "nowhere.json")
    assert "nowhere.json" in error and "bpe.py" in error and "bytes" in error
    ours = json.loads(data)
    swapped = {**ours, "model": {**ours["model"], "merges": ours["model"]["merges"][::-1]}}
    for n, bad in enumerate((b"", data[:len(data) // 2], data[:-3], data + b"}", b"\x80\x04]", b"[]", b"null", b"3", b'"x"', b"{}", b"[" * 100_000,
                             json.dumps(WORD_LEVEL).encode(), json.dumps({**ours, "normalizer": {"type": "NFC"}}).encode(),
                             json.dumps(swapped).encode(), (shop.path / "out/gpt/model.pt").read_bytes(), b"a text\n" * 50)):
        shop.write(f"bad{n}.json", bad)
        error = shop.fails(script, *train, "--tokenizer", f"bad{n}.json")
        assert f"bad{n}.json" in error and "bpe.py" in error
    shop.fails(script, *train, "--tokenizer", "out")         # a folder
    assert not (shop.path / "new").exists()
    (shop.path / "out/tokenizer.json").unlink()
    assert "out/tokenizer.json" in shop.fails(script, "--sample")

# -----------------------------------------------------------------------------
# files: the checkpoint's

@pytest.mark.parametrize("script", MODELS)
def test_no_checkpoint(script, shop):
    error = shop.fails(script, "--sample")
    assert "model.pt" in error and f"python {script}" in error

@pytest.mark.parametrize("script", MODELS)
def test_damaged_checkpoints(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    path = shop.path / folder(script) / "model.pt"
    for name in ("state.pt", "stable.pt"):                   # gpt.py would speak from there
        (path.parent / name).unlink(missing_ok=True)
    whole, other = path.read_bytes(), shop.path / folder("bigram_nn.py" if script != "bigram_nn.py" else "gpt.py") / "model.pt"
    torch.save(torch.ones(3), shop.path / "tensor.pt")
    torch.save({"a": 1}, shop.path / "dict.pt")
    torch.save({"config": {"tokenizer": "bytes"}, "tokenizer": "0" * 16}, shop.path / "almost.pt")
    foreign = [(shop.path / f"{name}.pt").read_bytes() for name in ("tensor", "dict")] + [other.read_bytes()]
    cuts = [whole[:int(share * len(whole))] for share in (0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999)]
    holes = [whole[:at] + bytes(100) + whole[at + 100:] for at in range(1000, len(whole) - 1000, len(whole) // 7)]
    for bad in (*cuts, *holes, *foreign, b"garbage" * 1000, b"\x80\x04K\x01.", b"\x80\x02}q\x00."):
        path.write_bytes(bad)
        error = shop.fails(script, "--sample")
        assert "model.pt" in error and f"python {script}" in error, (len(bad), error)
    path.write_bytes((shop.path / "almost.pt").read_bytes())
    shop.fails(script, "--sample")
    path.unlink(), path.mkdir()
    shop.fails(script, "--sample")

@pytest.mark.parametrize("script", MODELS)
def test_a_checkpoint_that_would_run_code(script, trained, tmp_path):
    """Loading is not allowed to."""
    shop = trained.fork(tmp_path / "shop")
    evil = b"cos\nsystem\n(S'touch pwned'\ntR."
    for name in ("model.pt", "state.pt", "stable.pt"):
        shop.write(f"{folder(script)}/{name}", evil)
    shop.fails(script, "--sample")
    assert not (shop.path / "pwned").exists()

@pytest.mark.parametrize("script", MODELS)
def test_a_checkpoint_of_another_tokenizer(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    assert "another tokenizer" in shop.fails(script, "--sample", "--tokenizer", "bytes")
    shop.ok("bpe.py", "--vocab-size", 280)
    assert "another tokenizer" in shop.fails(script, "--sample")
    shop.ok("bpe.py", "--vocab-size", 300)                   # the same one, made again
    shop.ok(script, "--sample", "--max-new-tokens", 3)

@pytest.mark.parametrize("script", MODELS)
def test_a_tokenizer_that_has_moved(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    text = shop.ok(script, "--sample", "--max-new-tokens", 9)
    (shop.path / "out/tokenizer.json").rename(shop.path / "moved.json")
    assert shop.ok(script, "--sample", "--max-new-tokens", 9, "--tokenizer", "moved.json") == text

@pytest.mark.parametrize("script", MODELS)
def test_a_folder_that_cannot_be_made(script, shop):
    shop.write("file", "not a folder")
    shop.fails(script, *tiny(script), "--out-dir", "file")
    shop.fails(script, *tiny(script), "--out-dir", "file/below")
    assert (shop.path / "file").read_text() == "not a folder"

@pytest.mark.parametrize("script", MODELS)
def test_a_full_disk_leaves_the_old_model(script, trained, tmp_path):
    shop = trained.fork(tmp_path / "shop")
    shop.write("input.txt", sentences(9, 20000))
    flags = [*tiny(script)[2:], *(["--fresh"] if script == "gpt.py" else [])]
    before = (shop.path / folder(script) / "model.pt").read_bytes()
    result = shop.run(script, *flags, file_limit=1000)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    kept = [path.read_bytes() for path in (shop.path / "out").glob(f"{script[:-3]}*/model.pt")]
    assert before in kept

# -----------------------------------------------------------------------------
# pipes and signals

def piped(shop, n, script, *flags):
    """-> the first n bytes that a script writes into a pipe which is then closed, and its end"""
    fifo = shop.path.parent / f"{shop.path.name}-fifo"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    running = shop.start(script, *flags, stdout=fifo)
    reader, data = os.open(fifo, os.O_RDONLY), b""
    while len(data) < n and (more := os.read(reader, n - len(data))):
        data += more
    os.close(reader)
    return data, running.wait()

@pytest.mark.parametrize("script", MODELS)
def test_head_has_read_enough(script, trained):
    data, end = piped(trained, 10, script, "--sample", "--num-samples", 10_000, "--prompt", "The")
    assert len(data) == 10 and (end.returncode, end.stderr) == (0, "")

@pytest.mark.parametrize("script", SCRIPTS)
def test_nobody_reads(script, shop):
    for flags in (tiny(script), ["--help"]):
        _, end = piped(shop, 0, script, *flags)
        assert (end.returncode, end.stderr) == (0, "")

@pytest.mark.parametrize("script, flags", [("bpe.py", ["--encode"]), *((script, ["--sample", "--prompt"]) for script in MODELS)])
def test_closed_stdin(script, flags, trained):
    error = trained.fails(script, *flags, "-", before="import os; os.close(0)")
    assert "Bad file descriptor" in error

def test_head_in_a_real_shell(trained):
    done = subprocess.run(["bash", "-c", '"$0" bigram_counts.py --sample --num-samples 3000 | head -c 10; echo "${PIPESTATUS[0]}"', sys.executable],
                          cwd=trained.path, capture_output=True, timeout=100)
    assert done.stdout.endswith(b"0\n") and len(done.stdout) == 12 and done.stderr == b""

FORK = """
import os, signal
real = os.fork
def fork():
    pid = real()
    os.kill(os.getpid(), signal.SIGINT)                      # Ctrl-C reaches the parent and each child, right then
    return pid
os.fork = fork
"""

@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process does it all")
@pytest.mark.parametrize("script", SCRIPTS)
def test_control_c_while_processes_start(script, shop):
    shop.write("input.txt", b"To be, or not to be. " * 150_000)
    end = shop.run(script, *tiny(script), before=FORK)
    assert (end.returncode, end.stderr) == (130, "interrupted\n")

@pytest.mark.parametrize("script", MODELS)
def test_control_c_while_speaking(script, trained):
    running = trained.start(script, "--sample", "--num-samples", 10 ** 6, "--prompt", "The")
    running.until("The")
    running.kill(signal.SIGINT)
    end = running.wait()
    assert (end.returncode, end.stderr) == (130, "interrupted\n")
