"""A run that is stopped, killed, prolonged or damaged ends where one left alone does, to the bit, or says why not."""
import csv, json, random, signal, time

import pytest
import torch

from conftest import sentences, shop_at, TINY

STEPS = 45
FLAGS = [*TINY, "--max-steps", STEPS, "--eval-every", 7, "--dropout", 0.2]
SAME = "step loss matrix_lr vector_lr grad_norm scale val_loss val_bpb sample".split()      # what a kill must not change in metrics.csv

def metrics(shop, out="out"):
    lines = [*csv.reader((shop.path / out / "gpt/metrics.csv").read_text().splitlines())]
    assert all(len(line) == len(lines[0]) for line in lines)
    return [{name: value for name, value in zip(lines[0], line) if name in SAME} for line in lines[1:]]

def equal(a, b):
    """Whether two nests of dicts, lists and tensors are the same, to the bit."""
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b

def assert_same_run(one, other):
    for name in ("state.pt", "model.pt", "stable.pt"):
        a, b = (shop.load(f"out/gpt/{name}") for shop in (one, other))
        for part in {"weights", "average", "muon", "adamw", "scaler", "step", "vals", "val_loss", "val_bpb"} & (a.keys() | b.keys()):
            assert equal(a[part], b[part]), f"{part} of {name}"
        for part in {"step", "val_loss", "weights"} & a.get("best", {}).keys():
            assert equal(a["best"][part], b["best"][part]), f"best {part} of {name}"
    assert metrics(one) == metrics(other)
    results = [json.loads((shop.path / "out/gpt/result.json").read_text()) for shop in (one, other)]
    assert [{**result, "seconds": 0} for result in results][0] == {**results[1], "seconds": 0}
    assert not [path for shop in (one, other) for path in shop.path.glob("out/gpt/*.tmp")]

@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run that nobody interrupted."""
    shop = shop_at(server, tmp_path_factory.mktemp("whole") / "shop")
    shop.ok("gpt.py", *FLAGS)
    return shop

@pytest.fixture(scope="module")
def half(server, tmp_path_factory):
    """A run that was stopped somewhere after step 21."""
    shop = shop_at(server, tmp_path_factory.mktemp("half") / "shop")
    stop_at(shop, 21)
    return shop

def stop_at(shop, step, signum=signal.SIGTERM):
    """Runs, and sends a signal once this step has been evaluated -> its result"""
    running = shop.start("gpt.py", *FLAGS)
    running.until(f"step {step:>6} | validation")
    running.kill(signum)
    return running.wait()

# -----------------------------------------------------------------------------
# killed

KILL = """
import os, signal
events, real = [], {name: getattr(os, name) for name in ('fsync', 'replace')}
def counted(name):
    def call(*args, **kwargs):
        events.append(name)
        if len(events) == AT and BEFORE: os.kill(os.getpid(), signal.SIGKILL)
        real[name](*args, **kwargs)
        if len(events) == AT: os.kill(os.getpid(), signal.SIGKILL)
    return call
os.fsync, os.replace = counted('fsync'), counted('replace')
"""
HALF = """
n_written, real_write = [0], write
def write(path, data):
    n_written[0] += 1
    if n_written[0] == AT:
        with open(path + '.tmp', 'wb') as f:
            f.write(data[:len(data) // 2])
        os.kill(os.getpid(), 9)
    real_write(path, data)
"""

@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_any_number_of_times(whole, server, tmp_path, seed):
    """Real processes, kill -9: at random times, before and after any rename, in the middle of a file."""
    shop, rng, kills, starts = shop_at(server, tmp_path / "shop"), random.Random(seed), [], 0
    while True:
        how, at = rng.choice(["time", "event", "half"]), 0
        if how == "event":
            at = rng.randint(1, 14)
            running = shop.start("gpt.py", *FLAGS, before=KILL.replace("AT", str(at)).replace("BEFORE", str(rng.random() < 0.5)))
        elif how == "half":
            at = rng.randint(1, 8)
            running = shop.start("gpt.py", *FLAGS, patch=HALF.replace("AT", str(at)))
        else:
            running = shop.start("gpt.py", *FLAGS)
            time.sleep(rng.uniform(0.03, 0.35))
            running.kill()
        result, starts = running.wait(), starts + 1
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL and not result.stderr, (how, at, result)
        kills.append(how)
        if starts == 25:                                     # enough
            assert shop.run("gpt.py", *FLAGS).returncode == 0
            break
    assert len(kills) >= 3, kills
    assert_same_run(shop, whole)

def test_killed_while_it_saves_the_first_checkpoint(whole, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    for at in range(1, 9):                                   # every event of the start, one after the other
        for before in (True, False):
            result = shop.run("gpt.py", *FLAGS, before=KILL.replace("AT", str(at)).replace("BEFORE", str(before)))
            assert result.returncode == -signal.SIGKILL
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

# -----------------------------------------------------------------------------
# stopped

@pytest.mark.parametrize("signum, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal(whole, server, tmp_path, signum, status):
    shop = shop_at(server, tmp_path / "shop")
    result = stop_at(shop, 14, signum)
    assert (result.returncode, result.stderr) == (status, "")
    step = shop.load("out/gpt/state.pt")["step"]
    assert 14 <= step < STEPS and f"{step}" in result.stdout.splitlines()[-1]
    assert not (shop.path / "out/gpt/result.json").exists() and [row["step"] for row in metrics(shop)] == [str(n) for n in range(step)]
    out = shop.ok("gpt.py")                                  # plainly: it knows what was typed
    assert f"going on at step {step} of {STEPS}" in out and "bit for bit" not in out
    assert_same_run(shop, whole)

def test_sigterm_twice_saves_once(whole, server, tmp_path):
    """One from run.sh, and one from whoever stops its whole process group."""
    shop = shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *FLAGS, patch="real_save = save\ndef save(*a): time.sleep(0.5); real_save(*a)\n")
    run.until("step      0 |")
    run.kill(signal.SIGTERM)
    time.sleep(0.2)
    run.kill(signal.SIGTERM)
    assert run.wait().returncode == 143 and shop.load("out/gpt/state.pt")["step"] > 0
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

def test_stopped_often(whole, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    for step in (0, 7, 14, 28):
        assert stop_at(shop, step).returncode == 143
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

def test_signal_at_every_moment(whole, server, tmp_path):
    """In the middle of a save, an evaluation, a step: SIGTERM from within."""
    shop, patch = shop_at(server, tmp_path / "shop"), "real_NAME = NAME\ndef NAME(*args, **kwargs):\n" \
        "    NAME.n += 1\n    if NAME.n == AT: os.kill(os.getpid(), signal.SIGTERM)\n    return real_NAME(*args, **kwargs)\nNAME.n = 0\n"
    for name, at in (("save", 2), ("evaluate", 2), ("lr_at", 3), ("save", 4), ("mix", 7), ("evaluate", 5)):
        result = shop.run("gpt.py", *FLAGS, patch=patch.replace("NAME", name).replace("AT", str(at)))
        assert (result.returncode, result.stderr) == (143, ""), (name, at, result)
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

def test_a_signal_in_the_last_evaluation(whole, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    patch = "real = evaluate\ndef evaluate(*args):\n    evaluate.n += args[2] > 1\n" \
        f"    if evaluate.n == {STEPS // 7 + 2}: os.kill(os.getpid(), signal.SIGTERM)\n    return real(*args)\nevaluate.n = 0\n"
    assert shop.run("gpt.py", *FLAGS, patch=patch).returncode == 143
    shop.ok("gpt.py")
    assert metrics(shop) == metrics(whole)
    assert equal(shop.load("out/gpt/model.pt")["weights"], whole.load("out/gpt/model.pt")["weights"])
    assert (shop.path / "out/gpt/result.json").exists()

# -----------------------------------------------------------------------------
# prolonged

@pytest.mark.parametrize("shorter", [10, 24, 44])
def test_prolonged_is_as_from_the_start(whole, server, tmp_path, shorter):
    shop = shop_at(server, tmp_path / "shop")
    flags = [*FLAGS, "--max-steps", shorter]
    shop.ok("gpt.py", *flags)
    shop.ok("gpt.py", "--max-steps", STEPS)
    assert_same_run(shop, whole)

def test_prolonged_again_and_killed_between(whole, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    shop.ok("gpt.py", *FLAGS, "--max-steps", 8)
    for at in (1, 2, 3, 5, 8):
        result = shop.run("gpt.py", "--max-steps", 20, before=KILL.replace("AT", str(at)).replace("BEFORE", "True"))
        assert result.returncode == -signal.SIGKILL
    shop.ok("gpt.py", "--max-steps", 20)
    running = shop.start("gpt.py", "--max-steps", STEPS)
    running.until("validation")
    running.kill()
    running.wait()
    shop.ok("gpt.py", "--max-steps", STEPS)
    assert_same_run(shop, whole)

def test_prolonged_while_it_runs(whole, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    running = shop.start("gpt.py", *FLAGS, "--max-steps", 32)
    running.until("step      7 | validation")
    running.kill(signal.SIGTERM)
    assert running.wait().returncode == 143
    shop.ok("gpt.py", "--max-steps", STEPS)
    assert_same_run(shop, whole)

@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_prolonged_without_a_level_part(server, tmp_path, decay):
    one, other = shop_at(server, tmp_path / "one"), shop_at(server, tmp_path / "other")
    flags = [*TINY, "--eval-every", 7, "--decay", decay]
    one.ok("gpt.py", *flags, "--max-steps", 24)
    other.ok("gpt.py", *flags, "--max-steps", 14)
    other.ok("gpt.py", "--max-steps", 24)
    assert_same_run(one, other)

def test_model_of_a_prolonged_run_is_its_own(server, tmp_path):
    """The shorter run's best, from its way down, is not on the longer one's way; the result says what model.pt is."""
    patch = "values = iter({})\ndef evaluate(model, ids, batch_size): return next(values) if batch_size > 1 else 1.0\n"
    shop, flags = shop_at(server, tmp_path / "shop"), [*TINY, "--eval-every", 5]
    shop.ok("gpt.py", *flags, "--max-steps", 24, patch=patch.format([5, 4, 3.9, 3.5, 3.2, 3.0]))
    assert shop.load("out/gpt/stable.pt")["step"] == 12 and shop.load("out/gpt/model.pt")["step"] == 24
    shop.ok("gpt.py", "--max-steps", 40, patch=patch.format([4.0, 4.1, 4.2, 4.3, 4.4, 4.5]))
    model, result = shop.load("out/gpt/model.pt"), json.loads((shop.path / "out/gpt/result.json").read_text())
    assert model["val_loss"] == result["val_loss"]
    assert (model["step"], model["val_loss"]) == (10, 3.9)

def test_weight_decay_can_be_changed(server, tmp_path):
    """Flags that a resumed run takes are taken: as if from the start."""
    shop = shop_at(server, tmp_path / "shop")
    shop.ok("gpt.py", *TINY, "--max-steps", 10)
    shop.ok("gpt.py", "--max-steps", 20, "--weight-decay", 0.5)
    assert shop.load("out/gpt/state.pt")["config"]["weight_decay"] == 0.5
    shop.ok("gpt.py", *TINY, "--max-steps", 10, "--out-dir", "other")
    shop.ok("gpt.py", "--max-steps", 20, "--out-dir", "other")
    assert not equal(shop.load("out/gpt/state.pt")["weights"], shop.load("other/gpt/state.pt")["weights"])

def test_a_finished_run_says_how_to_go_on(whole, tmp_path):
    shop = whole.fork(tmp_path / "shop")
    before = shop.files()
    for flags in ([], FLAGS):
        out = shop.ok("gpt.py", *flags)
        assert all(flag in out.splitlines()[-1] for flag in ("--max-steps", "--sample", "--fresh")), out
    assert shop.files() == before

def test_an_unfinished_result_is_made_again(whole, tmp_path):
    """Killed after the last checkpoint and before the result."""
    shop = whole.fork(tmp_path / "shop")
    (shop.path / "out/gpt/result.json").unlink()
    shop.ok("gpt.py")
    assert metrics(shop) == metrics(whole) and (shop.path / "out/gpt/result.json").exists()

def test_a_smaller_max_steps(half, whole, tmp_path):
    """What is past cannot be made to have had a smaller learning rate."""
    done = whole.fork(tmp_path / "done")
    error = done.fails("gpt.py", "--max-steps", 10)
    assert "--max-steps" in error and "--fresh" in error

# -----------------------------------------------------------------------------
# refused

@pytest.mark.parametrize("flag, value", [("seed", 7), ("n-layer", 2), ("n-head", 1), ("n-kv-head", 1), ("n-embd", 32),
                                         ("n-hidden", 20), ("block-size", 8), ("batch-size", 3)])
def test_what_a_run_is_made_of_cannot_change(half, flag, value):
    error = half.fails("gpt.py", f"--{flag}", value)
    assert all(word in error for word in (f"--{flag}", "--fresh", "--out-dir")), error

def test_the_same_values_typed_again_are_no_change(half, tmp_path):
    shop = half.fork(tmp_path / "shop")
    assert "going on" in shop.ok("gpt.py", *TINY, "--seed", 1337, "--n-kv-head", 2, "--n-hidden", 48, "--max-steps", STEPS, "--eval-every", 7)

def test_another_text_or_tokenizer_is_refused(half, tmp_path):
    shop = half.fork(tmp_path / "shop")
    shop.write("other.txt", sentences(2, 6000))
    shop.ok("bpe.py", "--vocab-size", 270)
    for flags in (["--input", "other.txt"], ["--tokenizer", "out/tokenizer.json"]):
        error = shop.fails("gpt.py", *flags)
        assert "--fresh" in error and "another" in error
    shop.write("input.txt", sentences(1, 6000) + "!")
    assert "--fresh" in shop.fails("gpt.py")
    shop.write("elsewhere/text.txt", sentences(1, 6000))     # the same text is the same text, wherever it lies
    assert "going on" in shop.ok("gpt.py", "--input", "elsewhere/text.txt")

def test_fresh_moves_the_old_run_aside(half, whole, tmp_path):
    shop = half.fork(tmp_path / "shop")
    old = {name: data for name, data in shop.files().items() if name.startswith("out/gpt/")}
    shop.ok("gpt.py", *FLAGS, "--fresh")
    assert_same_run(shop, whole)
    files = shop.files()
    assert {name.replace("/gpt/", "/gpt-old-1/"): data for name, data in old.items()}.items() <= files.items()
    shop.ok("gpt.py", *TINY, "--max-steps", 2, "--seed", 9, "--fresh")
    assert shop.load("out/gpt/state.pt")["step"] == 2
    assert all(shop.files()[name.replace("/gpt/", "/gpt-old-2/")] == data for name, data in files.items() if name.startswith("out/gpt/"))
    assert "finished at step 2" in shop.ok("gpt.py")         # --fresh was for that once

@pytest.mark.parametrize("flags", [["--input", "nope.txt"], ["--tokenizer", "nope.json"], ["--n-head", 3, "--n-embd", 16],
                                   ["--max-steps", 0], ["--dtype", "fp8"], ["--device", "abacus"]])
def test_fresh_that_fails_moves_nothing(half, tmp_path, flags):
    shop = half.fork(tmp_path / "shop")
    shop.fails("gpt.py", *FLAGS, "--fresh", *flags)
    assert (shop.path / "out/gpt/state.pt").exists() and not (shop.path / "out/gpt-old-1").exists()

def test_another_machine_is_named(half, tmp_path):
    shop = half.fork(tmp_path / "shop")
    state = shop.load("out/gpt/state.pt")
    torch.save({**state, "numerics": "torch 1.0, cpu, AVX9000"}, shop.path / "out/gpt/state.pt")
    out = shop.ok("gpt.py")
    assert sum("not bit for bit" in line and "AVX9000" in line for line in out.splitlines()) == 1

def test_flags_of_another_version(half, whole, tmp_path):
    """One that is no more is passed over, one that is new has its default."""
    shop = half.fork(tmp_path / "shop")
    state = shop.load("out/gpt/state.pt")
    config = {name: value for name, value in state["config"].items() if name != "trial_seconds"}
    torch.save({**state, "config": {**config, "no_more": 3}}, shop.path / "out/gpt/state.pt")
    assert "going on" in shop.ok("gpt.py")
    assert_same_run(shop, whole)

def test_two_at_once_in_one_folder(whole, server, tmp_path):
    """The second says so, and leaves everything to the first; a kill leaves no lock behind."""
    shop = shop_at(server, tmp_path / "shop")
    first = shop.start("gpt.py", *FLAGS, patch="real_save = save\ndef save(*a): time.sleep(1); real_save(*a)\n")
    first.until("step      0 |")
    second = shop.run("gpt.py", *FLAGS)
    assert second.returncode == 1 and "another gpt.py is training in out/gpt" in second.stderr
    assert second.stderr.count("\n") == 1
    first.kill()
    first.wait()
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

# -----------------------------------------------------------------------------
# damaged

def truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])

def test_torn_metrics(half, whole, tmp_path):
    for tail in (b"22,3.4", b"22", b"\n", b"22,3,4,5,6,7,8,9,10,1", b"9999,1,1,1,1,1,1,1,1,1\n", b"x\n\n,,,\n", b'22,3,"\xef\xbf'):
        shop = half.fork(tmp_path / f"shop{len(tail)}")
        with open(shop.path / "out/gpt/metrics.csv", "ab") as f:
            f.write(tail)
        shop.ok("gpt.py")
        assert_same_run(shop, whole)

def test_metrics_that_are_gone(half, tmp_path):
    shop = half.fork(tmp_path / "shop")
    (shop.path / "out/gpt/metrics.csv").unlink()
    step = shop.load("out/gpt/state.pt")["step"]
    shop.ok("gpt.py")
    assert [int(row["step"]) for row in metrics(shop)] == list(range(step, STEPS + 1))

@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_state(half, whole, tmp_path, share):
    """stable.pt serves, where it is there."""
    shop = half.fork(tmp_path / "shop")
    truncate(shop.path / "out/gpt/state.pt", share)
    error = shop.fails("gpt.py")
    assert "state.pt" in error and "--fresh" in error
    done = whole.fork(tmp_path / "done")
    truncate(done.path / "out/gpt/state.pt", share)
    result = done.run("gpt.py")
    assert result.returncode == 0 and result.stderr.count("\n") <= 1
    assert any("state.pt" in line and "stable.pt" in line for line in (result.stdout + result.stderr).splitlines())
    assert f"going on at step {STEPS - STEPS // 2} of {STEPS}" in result.stdout
    assert_same_run(done, whole)
    truncate(done.path / "out/gpt/state.pt", share)
    truncate(done.path / "out/gpt/stable.pt", share)
    assert "--fresh" in done.fails("gpt.py")

def test_truncated_model_speaks_from_the_state(whole, tmp_path):
    shop = whole.fork(tmp_path / "shop")
    text, path = shop.ok("gpt.py", "--sample"), shop.path / "out/gpt/model.pt"
    weights = [whole.load(f"out/gpt/{name}") for name in ("model.pt", "state.pt")]
    same = equal(weights[0]["weights"], weights[1]["average"])              # the last was the best
    for damage in (lambda: truncate(path), path.unlink):
        damage()
        result = shop.run("gpt.py", "--sample")
        assert result.returncode == 0 and result.stderr.count("\n") == 1 and "state.pt" in result.stderr
        assert len(result.stdout) > 3 and (result.stdout == text or not same)
    truncate(shop.path / "out/gpt/state.pt")
    error = shop.fails("gpt.py", "--sample")
    assert "gpt.py" in error
    (shop.path / "out/gpt/state.pt").unlink()
    assert "python gpt.py" in shop.fails("gpt.py", "--sample")

def test_truncated_model_and_another_error(whole, tmp_path):
    """What a user typed wrong is said once."""
    shop = whole.fork(tmp_path / "shop")
    assert "nope.json" in shop.fails("gpt.py", "--sample", "--tokenizer", "nope.json")

def test_every_checkpoint_loads_with_weights_only(whole, trained):
    paths = [*whole.path.rglob("*.pt"), *trained.path.rglob("*.pt")]
    assert {path.name for path in paths} == {"model.pt", "state.pt", "stable.pt"} and len(paths) == 8
    for path in paths:
        saved = torch.load(path, weights_only=True)
        assert {"config", "tokenizer", "text"} <= saved.keys()
        assert all(isinstance(value, (str, int, float, bool)) for value in saved["config"].values())

# -----------------------------------------------------------------------------
# a full disk

def test_a_file_that_cannot_grow(half, whole, tmp_path):
    """The system's own limit on a file's size stands for a full disk: the new checkpoint does not fit, the old one stays."""
    shop = half.fork(tmp_path / "shop")
    error = shop.fails("gpt.py", file_limit=20_000)
    assert "Errno" in error or "space" in error
    shop.ok("gpt.py")
    assert_same_run(shop, whole)

@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_full_disk(whole, server, tmp_path, call, at):
    shop = shop_at(server, tmp_path / "shop")
    full = f"""
import os, errno
n, real = [0], os.{call}
def call(*args):
    n[0] += 1
    if n[0] >= {at}: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(*args)
os.{call} = call
"""
    result = shop.run("gpt.py", *FLAGS, before=full)
    assert result.returncode == 1 and result.stderr == "error: [Errno 28] No space left on device\n"
    if at > 2:
        assert shop.load("out/gpt/state.pt")["step"] % 7 == 0
    shop.ok("gpt.py", *FLAGS)
    assert_same_run(shop, whole)

def test_metrics_that_cannot_be_written(half, whole, tmp_path):
    shop = half.fork(tmp_path / "shop")
    full = """
real_open = open_metrics
class Full:
    def __init__(self, file): self.file, self.n = file, 0
    def write(self, text):
        self.n += text.count(chr(10))
        if self.n > 5: raise OSError(28, 'No space left on device')
        return self.file.write(text)
    def close(self): self.file.close()
def open_metrics(*args): return Full(real_open(*args))
"""
    result = shop.run("gpt.py", patch=full)
    assert (result.returncode, result.stderr) == (1, "error: [Errno 28] No space left on device\n")
    shop.ok("gpt.py")
    assert_same_run(shop, whole)
