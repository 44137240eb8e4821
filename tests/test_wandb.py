"""
Tracking, with the real client in real processes, against the server that WANDB_BASE_URL and WANDB_API_KEY name.

Anyone can run these against an account of their own; they make runs named test-... in the projects shebang-tests and shebang-sweeps.
"""
import csv, json, os, random, re, shutil, signal, socket, subprocess, sys, threading, time, urllib.parse, uuid
from pathlib import Path

import pytest
import torch

from conftest import ROOT, TINY, sentences, shop_at
from test_resume import equal

KEY, URL = os.environ["TEST_WANDB"], os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
pytestmark = pytest.mark.skipif(not KEY, reason="no W&B server: set WANDB_API_KEY, and WANDB_BASE_URL where it is not W&B's own")
ONLINE = {"WANDB_MODE": "online", "WANDB_SERVICE": "", "WANDB_PROJECT": "shebang-tests", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": URL}
NO_KEY = {**ONLINE, "WANDB_API_KEY": "", "NETRC": "/dev/null", "HOME": "/nonexistent"}
STEPS = 300
FLAGS = [*TINY, "--max-steps", STEPS, "--eval-every", 50]

def new_name():
    return f"test-{uuid.uuid4().hex[:8]}"

@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The server as a reader of it sees it."""
    folder = tmp_path_factory.mktemp("api")
    os.environ.update(WANDB_API_KEY=KEY, WANDB_BASE_URL=URL, WANDB_SILENT="true", WANDB_CACHE_DIR=str(folder),
                      WANDB_DATA_DIR=str(folder), WANDB_ERROR_REPORTING="false", TMPDIR=str(folder))
    import wandb
    return wandb.Api(timeout=30)

def runs_of(api, name):
    """-> {stage: its runs}, of the group of that name"""
    found = {}
    for run in api.runs("shebang-tests", {"group": name}):
        found.setdefault(run.name, []).append(run)
    return found

def history(api, name, stage="gpt"):
    run, = runs_of(api, name)[stage]
    return [row for row in run.scan_history()]

def versions(api, name, artifact):
    return [version for version in api.artifacts("model", f"shebang-tests/{name}-{artifact}")]

def rows(shop):
    with open(shop.path / "out/gpt/metrics.csv", encoding="utf-8") as f:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(f)]

def assert_mirrored(api, name, shop):
    """Each step of metrics.csv is in W&B's history, once, and with the same numbers."""
    ours, theirs = rows(shop), history(api, name)
    assert [int(row["step"]) for row in ours] == [row["_step"] for row in theirs] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs):
        for key in set(a) - {"step", "sample"}:
            assert float(a[key]) == pytest.approx(b[key], rel=1e-6), (key, a["step"])

class Link:
    """A wire to the server that can be cut, and mended."""
    def __init__(self):
        parts = urllib.parse.urlsplit(URL)
        if parts.scheme == "https":
            pytest.skip("a server behind TLS cannot be cut off")
        self.server, self.port, self.open = (parts.hostname, parts.port or 80), 0, []
        self.mend()

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()
        return self

    def accept(self, listener):
        try:
            while True:
                near, far = listener.accept()[0], socket.create_connection(self.server)
                self.open += [near, far]
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=[a, b], daemon=True).start()
        except OSError:
            pass

    def carry(self, a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        for wire in (self.listener, *self.open):
            try:
                wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            wire.close()
        self.open = []

    def env(self):
        return {**ONLINE, "WANDB_BASE_URL": f"http://127.0.0.1:{self.port}"}

def wait_for(what, seconds=60):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "never happened"
        time.sleep(0.1)

# -----------------------------------------------------------------------------
# the whole ladder, killed, and continued where nothing of it is

def clone(path):
    """-> an empty clone, whose models are small"""
    path.mkdir(parents=True)
    for name in ("bpe.py", "bigram_counts.py", "bigram_nn.py", "gpt.py", "run.sh", "requirements.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "bigram_nn.py":
            text = text.replace("flag(1000, ", "flag(20, ")
        if name == "gpt.py":
            for old, new in {"preset(4, 6, ": "preset(1, 1, ", "preset(128, 384, ": "preset(32, 32, ", "flag(15.0, ": "flag(0.02, ",
                             "preset(1400, 2000, ": "preset(1000, 1000, ", 'flag(200, "steps': 'flag(100, "steps'}.items():
                assert text.count(old) == 1, old
                text = text.replace(old, new)
        (path / name).write_text(text, encoding="utf-8")
    return path

def run_sh(folder, name, **env):
    """Starts run.sh with the Python that runs the tests, in a process group of its own."""
    shim = folder / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (shim / "python3").chmod(0o755)
    env = {**os.environ, **ONLINE, "RUN": name, "PATH": f"{shim}:{os.environ['PATH']}", **env}
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(["bash", "run.sh"], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said,
                                stderr=subprocess.STDOUT, start_new_session=True)

class Story:
    pass

@pytest.fixture(scope="module")
def story(api, server, tmp_path_factory):
    """run.sh, killed with -9 in the middle of the transformer; then in an empty clone, to the end."""
    folder, s = tmp_path_factory.mktemp("story"), Story()
    s.name, s.first, s.second = new_name(), clone(folder / "first"), clone(folder / "second")
    (s.first / "input.txt").write_text(sentences(1, 40000))
    process = run_sh(s.first, s.name)
    state = f"shebang-tests/{s.name}-gpt-state:latest"
    def far_enough():
        assert process.poll() is None, (s.first / "said.txt").read_text()
        return (s.first / "out/gpt/metrics.csv").exists() and api.artifact_exists(state) and api.artifact(state).metadata["step"] >= 100
    wait_for(far_enough, 120)
    time.sleep(random.random())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    s.killed_at = (s.first / "out/gpt/metrics.csv").read_text().count("\n") - 1
    begin = time.time()
    process = run_sh(s.second, s.name)
    metrics = s.second / "out/gpt/metrics.csv"
    wait_for(lambda: metrics.exists() or process.poll() is not None, 60)
    s.until_it_trains = time.time() - begin
    assert process.wait(120) == 0, (s.second / "said.txt").read_text()
    s.said = (s.second / "said.txt").read_text()
    s.shop = type("Shop", (), {"path": s.second})
    return s

def test_it_was_killed_in_the_middle(story):
    assert 100 <= story.killed_at < 1000
    left = int(re.search(rf"W&B: shebang-tests/{story.name} was left at step (\d+)", story.said)[1])
    assert 100 <= left <= story.killed_at + 1 and f"going on at step {left} of 1000" in story.said
    assert "learning from out/data" in story.said and (story.second / "out/run").read_text().split() == [story.name, "chosen"]
    assert "merges" not in story.said and "tokens | " not in story.said.split("a transformer")[0]       # nothing trained again

def test_it_ends_as_if_never_interrupted(story, server, tmp_path):
    alone = clone(tmp_path / "alone")
    shutil.copy(story.first / "input.txt", alone)
    shutil.copytree(story.first / "out", alone / "out", ignore=shutil.ignore_patterns("gpt", "wandb"))
    env = {**os.environ, "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "gpt.py"], cwd=alone, env=env, check=True, capture_output=True, timeout=120)
    for name in ("state.pt", "model.pt", "stable.pt"):
        a, b = (torch.load(folder / "out/gpt" / name, weights_only=True) for folder in (alone, story.second))
        for part in {"weights", "average", "muon", "adamw", "step", "vals"} & a.keys():
            assert equal(a[part], b[part]), f"{part} of {name}"

def test_history_has_each_step_once(story, api):
    assert_mirrored(api, story.name, story.shop)
    assert len(rows(story.shop)) == 1001

def test_one_group_with_its_lineage(story, api):
    runs = runs_of(api, story.name)
    assert {stage: len(found) for stage, found in runs.items()} == {
        "tokenizer": 1, "bigram-counts": 1, "bigram-nn": 1, "bigram-nn-64": 1, "gpt": 1}
    for stage, (run,) in runs.items():
        if stage != "tokenizer":
            used = {artifact.name.split(":")[0] for artifact in run.used_artifacts()}
            assert used == {f"{story.name}-data", f"{story.name}-tokenizer"}, stage
            assert run.summary["val_bpb"] > 0
    assert runs["gpt"][0].config["n_embd"] == 32
    tables = [row for row in history(api, story.name) if "samples" in row]
    assert tables[-1]["samples"]["_type"] == "table-file" and tables[-1]["samples"]["nrows"] == 11

def test_storage_is_bounded(story, api):
    state, = versions(api, story.name, "gpt-state")
    model, = versions(api, story.name, "gpt")
    assert sorted(state.aliases) == sorted(model.aliases) == ["best", "latest"] and [file.name for file in model.files()] == ["model.pt"]

def test_sampling_in_an_empty_folder(story, api, server, tmp_path):
    here = shop_at(server, tmp_path / "here")
    (here.path / "input.txt").unlink()
    before = len(api.runs("shebang-tests"))
    flags = ["--sample", "--run", f"shebang-tests/{story.name}", "--prompt", "The ", "--max-new-tokens", 30]
    said = here.ok("gpt.py", *flags, env=ONLINE)
    local = subprocess.run([sys.executable, "gpt.py", "--sample", "--prompt", "The ", "--max-new-tokens", "30"], cwd=story.second,
                           env={**os.environ, "WANDB_MODE": "disabled"}, capture_output=True, text=True, timeout=60)
    assert said == local.stdout and said.startswith("The ")
    assert len(wandb_runs(api)) == before
    no_wandb = "import sys; sys.modules['wandb'] = None"     # the second time: offline, and without the package
    assert here.ok("gpt.py", *flags, env={**NO_KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, before=no_wandb) == said
    assert "gpt.py" in os.listdir(here.path) and set(os.listdir(here.path)) == {"gpt.py", "out"}

def wandb_runs(api):
    return [run for run in type(api)(timeout=30).runs("shebang-tests")]

def test_the_key_is_nowhere(story):
    for folder in (story.first, story.second):
        for path in folder.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path

def test_run_again_it_only_prints_and_another_run_is_refused(story):
    assert run_sh(story.second, story.name).wait(60) == 0
    said = (story.second / "said.txt").read_text()
    assert "W&B" not in said and "step" not in said.split("=== the curves")[0] and "=== the ladder ===" in said
    assert run_sh(story.second, "another").wait(60) == 1
    said = (story.second / "said.txt").read_text()
    assert said.count("\n") == 1 and f"RUN={story.name}" in said

# -----------------------------------------------------------------------------
# kills, cuts, and machines that come and go

def test_five_kills_and_machines(api, server, tmp_path):
    """Killed at any moment, continued here or in an empty folder: each step once, weights to the bit."""
    name, rng = new_name(), random.Random(time.time())
    alone = shop_at(server, tmp_path / "alone")
    flags = ["gpt.py", *TINY, "--max-steps", 1500, "--eval-every", 50]
    alone.ok(*flags)
    flags += ["--run", name, "--upload-minutes", 0.002]
    shop = shop_at(server, tmp_path / "0")
    for kill in range(5):
        run = shop.start(*flags, env=ONLINE)
        run.until("tokens to train on")
        time.sleep(rng.random() * 3)
        run.kill()
        run.wait()
        if rng.random() < 0.5 and api.artifact_exists(f"shebang-tests/{name}-gpt-state:latest"):
            shop = shop_at(server, tmp_path / str(kill + 1))
            (shop.path / "input.txt").unlink()
    result = shop.run(*flags, env=ONLINE)
    assert result.returncode == 0, result
    assert equal(shop.load("out/gpt/state.pt")["weights"], alone.load("out/gpt/state.pt")["weights"])
    assert equal(shop.load("out/gpt/model.pt")["weights"], alone.load("out/gpt/model.pt")["weights"])
    theirs = history(api, name)
    assert [row["_step"] for row in theirs] == list(range(1501))
    assert len(versions(api, name, "gpt-state")) <= 2 and len(versions(api, name, "gpt")) <= 2

def test_a_machine_that_slept(api, server, tmp_path):
    """It is behind when it wakes: what another one has brought to an end stays, and is what it goes on with."""
    name = new_name()
    slow, fast = (shop_at(server, tmp_path / folder) for folder in ("slow", "fast"))
    run = slow.start("gpt.py", *TINY, "--max-steps", 3000, "--run", name, "--upload-minutes", 0.01, env=ONLINE)
    wait_for(lambda: api.artifact_exists(f"shebang-tests/{name}-gpt-state:latest"))
    run.kill(signal.SIGSTOP)
    (fast.path / "input.txt").unlink()
    assert "was left at step" in fast.run("gpt.py", *TINY, "--max-steps", 3000, "--run", name, env=ONLINE).stdout
    run.kill(signal.SIGTERM)
    run.kill(signal.SIGCONT)
    assert "of this run is there, from another machine" in run.wait().stderr
    assert [version.metadata["step"] for version in versions(api, name, "gpt-state")] == [3000]
    assert "was left at step 3000" in slow.run("gpt.py", *TINY, "--run", name, env=ONLINE).stdout
    assert equal(slow.load("out/gpt/model.pt")["weights"], fast.load("out/gpt/model.pt")["weights"])

def test_other_settings_under_the_same_name(api, server, tmp_path):
    name = new_name()
    one, other = (shop_at(server, tmp_path / folder) for folder in ("one", "other"))
    one.ok("gpt.py", *TINY, "--max-steps", 20, "--run", name, env=ONLINE)
    other.ok("gpt.py", *TINY, "--max-steps", 5, "--matrix-lr", 0.01)
    said = other.fails("gpt.py", *TINY, "--max-steps", 20, "--run", name, env=ONLINE)
    assert "other settings" in said and "--run" in said
    assert "--n-embd is 16 in this run" in shop_at(server, tmp_path / "third").fails(
        "gpt.py", *TINY, "--n-embd", 32, "--max-steps", 20, "--run", name, env=ONLINE)

def test_cut_and_mended(api, server, tmp_path):
    """The network goes away in the middle, and comes back: nothing is missing."""
    name, link, shop = new_name(), Link(), shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *TINY, "--max-steps", 2500, "--run", name, "--upload-minutes", 0.01, env=link.env())
    run.until("W&B: http")
    link.cut()
    time.sleep(3)
    link.mend()
    assert run.wait(120).returncode == 0
    assert_mirrored(api, name, shop)
    assert api.artifact(f"shebang-tests/{name}-gpt-state:latest").metadata["step"] == 2500

def test_cut_for_good(api, server, tmp_path):
    """Training ends as ever, and the process soon after; later all is sent."""
    name, link, shop = new_name(), Link(), shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *FLAGS, "--run", name, env=link.env())
    run.until("W&B: http")
    link.cut()
    begin, result = time.time(), run.wait(120)
    assert result.returncode == 0 and time.time() - begin < 90
    assert result.stderr.startswith("W&B: ") and result.stderr.count("\n") == 1, result.stderr
    assert len(rows(shop)) == STEPS + 1 and (shop.path / "out/gpt/result.json").exists()
    before = shop.load("out/gpt/state.pt")
    said = shop.run("gpt.py", "--tokenizer", "bytes", "--sync", "--run", name, env=ONLINE)
    assert said.returncode == 0
    assert_mirrored(api, name, shop)
    assert equal(before["weights"], shop.load("out/gpt/state.pt")["weights"])

def test_sync_where_only_a_tokenizer_is_made(api, server, tmp_path):
    """W&B has no such run, and the text is for run.sh to get: nothing to fetch or send yet, and no error."""
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    shop.ok("bpe.py", "--vocab-size", 300)
    shop.ok("gpt.py", "--sync", "--run", name, "--input", "out/data", env=ONLINE)
    shop.ok("gpt.py", "--sync", "--run", name, env=ONLINE)
    assert (shop.path / "out/wandb/sent-tokenizer").read_text() == "online"

@pytest.mark.parametrize("network", ["refused", "silent"])
def test_no_network(network, server, tmp_path):
    """The first step comes within 20 s, also where nobody answers at all; W&B's record is local."""
    shop = shop_at(server, tmp_path / "shop")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        port = 9 if network == "refused" else silent.getsockname()[1]
        begin = time.time()
        run = shop.start("gpt.py", *FLAGS, env={**ONLINE, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"})
        run.until("step      1/", 20)
        assert time.time() - begin < 20
        result = run.wait(60)
    assert result.returncode == 0 and "W&B" in result.stderr and len(rows(shop)) == STEPS + 1
    assert [*shop.path.glob("out/wandb/offline-run-*")]
    # but it is not taken for "no such run" where one is asked for
    other = shop_at(server, tmp_path / "other")
    said = other.fails("gpt.py", *FLAGS, "--run", "mine", env={**ONLINE, "WANDB_BASE_URL": "http://127.0.0.1:9"})
    assert "does not answer" in said and "--wandb off" in said

# -----------------------------------------------------------------------------
# without an account, and what is wrong with one

def test_no_key_then_sync(api, server, tmp_path):
    """Killed and continued without a key, one record holds it all, and the plain `wandb sync` sends it."""
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *FLAGS, "--run", name, env=NO_KEY)
    run.until("step    200")
    run.kill()
    run.wait()
    said = shop.ok("gpt.py", *FLAGS, "--run", name, env=NO_KEY)
    assert "wandb leet" in said and re.search(r"wandb sync (\S+)", said)
    record, = shop.path.glob("out/wandb/offline-run-*")
    assert str(record) == re.search(r"wandb sync (\S+)", said)[1]
    subprocess.run([sys.executable, "-m", "wandb", "sync", str(record)], check=True, capture_output=True, timeout=60,
                   cwd=shop.path, env={**os.environ, **ONLINE, "WANDB_DATA_DIR": str(shop.path / "out/wandb")})
    assert_mirrored(api, name, shop)
    assert api.artifact(f"shebang-tests/{name}-gpt-state:latest").metadata["step"] == STEPS
    elsewhere = shop_at(server, tmp_path / "elsewhere")
    (elsewhere.path / "input.txt").unlink()                  # the text is there, too, and that it is of bytes
    assert f"was left at step {STEPS}" in elsewhere.run("gpt.py", "--run", name, env=ONLINE).stdout

def test_no_key_then_run_sh_with_one(api, tmp_path):
    name, here = new_name(), clone(tmp_path / "here")
    (here / "input.txt").write_text(sentences(1, 20000))
    gpt = (here / "gpt.py").read_text(encoding="utf-8")
    (here / "gpt.py").write_text(gpt.replace("preset(1000, 1000, ", "preset(60, 60, "), encoding="utf-8")
    assert run_sh(here, name, **NO_KEY).wait(120) == 0, (here / "said.txt").read_text()
    assert len([*here.glob("out/wandb/offline-run-*")]) == 5
    times = {path: path.stat().st_mtime for path in here.glob("out/*/model.pt")}
    assert run_sh(here, name).wait(120) == 0, (here / "said.txt").read_text()
    said = (here / "said.txt").read_text()
    assert said.count("W&B: http") == 5 and times == {path: path.stat().st_mtime for path in times}
    assert_mirrored(api, name, type("Shop", (), {"path": here}))
    assert len(runs_of(api, name)) == 5 and not [*here.glob("out/wandb/offline-run-*")]

@pytest.mark.parametrize("key", ["short", "x" * 40])
def test_a_key_that_is_refused(key, server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    result = shop.run("gpt.py", *FLAGS, env={**ONLINE, "WANDB_API_KEY": key})
    assert result.returncode == 0 and len(rows(shop)) == STEPS + 1
    assert all(line.startswith("W&B: ") for line in result.stderr.splitlines()) and "Traceback" not in result.stderr
    other = shop_at(server, tmp_path / "other")
    said = other.fails("gpt.py", "--sample", "--run", new_name(), env={**ONLINE, "WANDB_API_KEY": key})
    assert key == "short" or key not in said
    assert 1 <= result.stderr.count("\n") <= 2 and (key == "short" or key not in result.stderr + result.stdout)

def test_a_key_in_netrc(api, server, tmp_path):
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    host = urllib.parse.urlsplit(URL).netloc
    where = str(shop.write("netrc", f"machine {host}\n  login user\n  password {KEY}\n"))
    shop.ok("gpt.py", *TINY, "--max-steps", 20, "--run", name, env={**NO_KEY, "NETRC": where})
    assert state_of(api, name)["step"] == 20
    source = (ROOT / "run.sh").read_text(encoding="utf-8")
    lines = re.search(r"(?ms)^host=.*?^}$", source).group()  # up to the end of has_key()
    for url, status in ((URL, 0), ("https://api.wandb.ai", int(host != "api.wandb.ai"))):
        env = {**os.environ, **NO_KEY, "NETRC": where, "WANDB_BASE_URL": url}
        assert subprocess.run(["bash", "-uc", lines + "\nhas_key"], env=env).returncode == status

def test_off_missing_and_old(server, tmp_path):
    for folder, flags, before in (("off", ["--wandb", "off"], ""), ("missing", [], "import sys; sys.modules['wandb'] = None"),
                                  ("old", [], "import wandb; wandb.__version__ = '0.28.2'")):
        shop = shop_at(server, tmp_path / folder)
        said = shop.ok("gpt.py", *TINY, "--max-steps", 20, *flags, env=ONLINE, before=before)
        assert ("pip install -U wandb" in said) == (folder != "off") and not [*shop.path.glob("out/wandb/*run*")]

DAMAGE = """
import wandb
real, n = wandb.Artifact.download, 0
def damaged(self, root=None, **options):
    global n
    n += 1
    real(self, root, **options)
    if n <= {times}:
        path = os.path.join(root, sorted(os.listdir(root))[0])
        data = bytearray(open(path, "rb").read())
        data[len(data) // 2] ^= 1
        open(path, "wb").write(data)
wandb.Artifact.download = damaged
"""

def test_a_damaged_artifact(api, server, tmp_path):
    name = new_name()
    shop_at(server, tmp_path / "one").ok("gpt.py", *TINY, "--max-steps", 20, "--run", name, env=ONLINE)
    for times in (1, 9):
        other = shop_at(server, tmp_path / f"other{times}")
        flags = ["gpt.py", "--sample", "--run", name, "--max-new-tokens", 5]
        if times == 1:
            other.ok(*flags, env=ONLINE, patch=DAMAGE.format(times=1))     # fetched again
        else:
            assert "arrives damaged" in other.fails(*flags, env=ONLINE, patch=DAMAGE.format(times=9))
            assert not [path for path in other.path.rglob("*.pt")]

def test_nothing_of_that_name(server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    assert "no model" in shop.fails("gpt.py", "--sample", "--run", new_name(), env=ONLINE)
    assert "no key" in shop.fails("gpt.py", "--sample", "--run", new_name(), env=NO_KEY)
    assert "a name has letters" in shop.fails("gpt.py", "--run", "a b", *TINY, env=ONLINE)

# -----------------------------------------------------------------------------
# which checkpoint goes on

def state_of(api, name):
    return api.artifact(f"shebang-tests/{name}-gpt-state:latest").metadata

def test_prolonged_elsewhere(api, server, tmp_path):
    """A run prolonged past its decay is newer than what it was, here and there; as are other settings."""
    name = new_name()
    one, other = (shop_at(server, tmp_path / folder) for folder in ("one", "other"))
    flags = ["gpt.py", *TINY, "--run", name]
    one.ok(*flags, "--max-steps", 20, env=ONLINE)
    other.ok(*flags, "--max-steps", 20, "--sync", env=ONLINE)
    said = other.ok(*flags, "--max-steps", 40, "--matrix-lr", 0.01, "--max-minutes", 1e-9, env=ONLINE)
    assert "going on at step 10 of 40" in said and state_of(api, name)["step"] == 10
    assert "going on at step 10 of 40" in one.ok(*flags, env=ONLINE) and one.load("out/gpt/state.pt")["branch"] == 1
    other.ok(*flags, "--max-steps", 80, "--matrix-lr", 0.02, "--wandb", "off")             # as if killed before an upload
    assert state_of(api, name)["step"] == 40
    assert "finished at step 80" in other.ok(*flags, env=ONLINE) and state_of(api, name)["step"] == 80
    for run in runs_of(api, name)["gpt"]:
        steps = [row["_step"] for row in run.scan_history()]
        assert steps == list(range(len(steps)))

def test_a_text_has_one_name_and_two_attempts(api, server, tmp_path):
    """Without --run, what is at W&B with other settings stays, and the second attempt is recorded."""
    shop = shop_at(server, tmp_path / "shop")
    shop.write("my.txt", new_name() + sentences(1, 6000))
    said = shop.ok("gpt.py", *TINY, "--input", "my.txt", "--max-steps", 20, env=ONLINE)
    name = re.search(r"/runs/(my-\w{6})-gpt-", said)[1]
    assert "finished at step 20" in shop.ok("gpt.py", env=ONLINE)
    best = ["gpt.py", *TINY, "--input", "my.txt", "--max-steps", 30, "--out-dir", "best"]
    for flags in (["--matrix-lr", 0.01], []):
        result = shop.run(*best, *flags, env=ONLINE)
        assert result.returncode == 0 and "other settings" in result.stderr and result.stderr.count("\n") == 1
        assert state_of(api, name)["step"] == 20
    assert len([*shop.path.glob("best/wandb/offline-run-*")]) == 1
    dead = {**ONLINE, "WANDB_BASE_URL": "http://127.0.0.1:9"}                  # nor is it replaced by what begins anew
    assert "does not answer" in shop.run("gpt.py", *TINY, "--input", "my.txt", "--out-dir", "third", env=dead).stderr
    shop.ok("gpt.py", "--out-dir", "fourth", "--input", "my.txt", "--tokenizer", "bytes", env=ONLINE)
    assert shop.load("fourth/gpt/state.pt")["step"] == 20

def test_a_long_name_and_none(server, tmp_path):
    shop = shop_at(server, tmp_path / "shop")
    for name in ("x" * 99, "\u6587"):
        shop.write(f"{name}.txt", sentences(1, 6000))
        shop.ok("gpt.py", *TINY, "--max-steps", 5, "--input", f"{name}.txt", "--out-dir", name, env=NO_KEY)
        assert len([*shop.path.glob(f"{name}/wandb/offline-run-*")]) == 1

# -----------------------------------------------------------------------------
# sessions

def test_nothing_piles_up(api, server, tmp_path):
    shop, flags = shop_at(server, tmp_path / "shop"), ["gpt.py", *TINY, "--max-steps", 9999, "--max-minutes", 0.02, "--run", new_name()]
    for env, most in ((NO_KEY, 6), (NO_KEY, 6), (ONLINE, 1), (ONLINE, 1)):     # text, model.pt, gpt-state's
        shop.ok(*flags, env=env)
        assert len([path for path in shop.path.glob("out/wandb/staging-gpt/**/*") if path.is_file()]) <= most
        assert len([*shop.path.glob("out/wandb/*run-*")]) == 1

FULL = """
import wandb
def add_file(*args, **options):
    raise OSError(28, "No space left on device")
wandb.Artifact.add_file = add_file
"""

def test_a_full_disk_for_staging(api, server, tmp_path):
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    flags = ["gpt.py", *FLAGS, "--run", name, "--upload-minutes", 0.01]
    result = shop.run(*flags, env=ONLINE, patch=FULL)
    assert result.returncode == 0 and len(rows(shop)) == STEPS + 1 and "No space left" in result.stderr
    assert all(line.startswith("W&B: ") for line in result.stderr.splitlines())
    assert "finished" in shop.ok(*flags, env=ONLINE) and state_of(api, name)["step"] == STEPS
    assert_mirrored(api, name, shop)

SLOW = """
import time, wandb
wandb.Artifact.wait = lambda self, timeout=None: time.sleep(600)
"""

def test_ctrl_c_in_the_last_upload(server, tmp_path):
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *FLAGS, "--run", name, env=ONLINE, patch=SLOW)
    run.until("W&B: sending the rest")
    time.sleep(1)
    run.kill(signal.SIGINT)
    result = run.wait(10)
    assert (result.returncode, result.stderr) == (130, "interrupted\n") and (shop.path / "out/gpt/result.json").exists()


def test_max_minutes(api, server, tmp_path):
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    said = shop.ok("gpt.py", *TINY, "--max-steps", 100_000, "--max-minutes", 0.1, "--run", name, env=ONLINE)
    step = int(re.search(r"stopped at step (\d+), saved", said)[1])
    assert 1 < step < 100_000 and shop.load("out/gpt/state.pt")["step"] == step
    assert api.artifact(f"shebang-tests/{name}-gpt-state:latest").metadata["step"] == step
    assert history(api, name)[-1]["_step"] == step - 1

@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_upload(signum, api, server, tmp_path):
    name, shop = new_name(), shop_at(server, tmp_path / "shop")
    run = shop.start("gpt.py", *TINY, "--max-steps", 100_000, "--run", name, env=ONLINE)
    run.until("W&B: http")
    time.sleep(1)
    run.kill(signum)
    assert run.wait().returncode == 128 + signum
    step = shop.load("out/gpt/state.pt")["step"]
    assert api.artifact(f"shebang-tests/{name}-gpt-state:latest").metadata["step"] == step
    assert [row["_step"] for row in history(api, name)] == list(range(step))

def test_in_a_notebook(api, tmp_path, monkeypatch):
    """One file pasted, killed in the middle, pasted elsewhere: it goes on; then it samples."""
    from test_notebook import execute
    for name, value in {**ONLINE, "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}.items():
        monkeypatch.setenv(name, value)
    name, source = new_name(), (ROOT / "gpt.py").read_text(encoding="utf-8")
    config = f'run="{name}", tokenizer="bytes", n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, eval_every=50'
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one/input.txt").write_text(sentences(1, 6000))
    first = execute(tmp_path / "one", [source, f"train(Config({config}, max_steps=100_000, max_minutes=0.1))"])
    assert not first[1].raised and "stopped at step" in first[1].stdout, vars(first[1])
    stop = int(re.search(r"stopped at step (\d+)", first[1].stdout)[1])
    second = execute(tmp_path / "other", [source, f"train(Config({config}, max_steps=100_000, max_minutes=0.1))",
                                          f'sample(Config(run="{name}", prompt="The", max_new_tokens=10))'])
    assert f"going on at step {stop} of" in second[1].stdout and not second[1].raised, vars(second[1])
    assert second[2].stdout.startswith("The") and not second[2].raised and not second[2].stderr, vars(second[2])
    steps = [row["_step"] for row in history(api, name)]
    assert steps == list(range(len(steps))) and len(steps) > stop

def test_an_error_in_a_notebook(api, tmp_path, monkeypatch):
    """The run that it ends is ended at W&B, too: the next cell goes on with it."""
    from test_notebook import execute
    for name, value in {**ONLINE, "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}.items():
        monkeypatch.setenv(name, value)
    name, source = new_name(), (ROOT / "gpt.py").read_text(encoding="utf-8")
    (tmp_path / "input.txt").write_text(sentences(1, 6000))
    train = (f'train(Config(run="{name}", tokenizer="bytes", n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4,'
             'eval_every=50, max_steps=200))')
    cells = execute(tmp_path, [source, "real, taste = taste, None\n" + train, "taste = real\n" + train])
    assert cells[1].raised and not cells[2].raised and "W&B: http" in cells[2].stdout and not cells[2].stderr, vars(cells[2])
    assert [row["_step"] for row in history(api, name)] == list(range(201))
