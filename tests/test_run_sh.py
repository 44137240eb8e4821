"""
run.sh: sets up, gets a text, and runs what is missing or out of date, whatever was there before.

A copy of run.sh with the real bpe.py, beside models that train in no time: stub.py keeps the models' side of the
agreement (flags, files, exit statuses) without torch. The whole ladder of real models is another test's work.
"""
import hashlib, http.server, json, os, re, signal, shutil, subprocess, sys, threading, time, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = "the cat sat on the mat and the dog sat on the log\n" * 20
MODELS = ["bigram_counts", "bigram_nn", "bigram_nn_64", "gpt"]

STUB = '''
import argparse, json, os, signal, sys, time
from bpe import Tokenizer, checksum, read
parser = argparse.ArgumentParser()
parser.add_argument("--input", default="input.txt")
parser.add_argument("--n-embd", default="")
parser.add_argument("--sample", action="store_true")
parser.add_argument("--plot", action="store_true")
parser.add_argument("--max-new-tokens", type=int)
flags = parser.parse_args()
name = os.path.basename(sys.argv[0])[:-3] + ("_" + flags.n_embd if flags.n_embd else "")
folder = f"out/{name}"
if flags.plot:
    print(f"the curves of {name}")
    sys.exit()
if flags.sample:
    print(f"I am {name}, {flags.max_new_tokens} tokens long")
    sys.exit()
open("trained.txt", "a").write(name + "\\n")
os.makedirs(folder, exist_ok=True)
if os.path.exists(f"{folder}/state.pt") and open(f"{folder}/state.pt").read() == "saved at a signal":
    sys.exit("error: another process is still saving")
what = os.environ.get(name)                                  # what this stage is to do: fail, wait, nothing
def stop(signum, frame):
    if what == "linger":
        signal.signal(signum, signal.SIG_DFL)
        time.sleep(60)
    open(f"{folder}/state.pt", "w").write("saved at a signal")
    time.sleep(1.5)
    open(f"{folder}/state.pt", "a").write(", whole")
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
if what == "fail":
    sys.exit("error: stub is out of order")
if what in ("wait", "linger"):
    open("waiting", "w").close()
    time.sleep(60)
if what != "nothing":
    open(f"{folder}/model.pt", "w").write("weights")
    json.dump(dict(model=name, parameters=1000, val_loss=2.0, val_bpb=3.0, seconds=1.5, text=checksum(read(flags.input)),
                   tokenizer=Tokenizer.load("out/tokenizer.json").fingerprint), open(f"{folder}/result.json", "w"))
'''

class Project:
    """A copy of run.sh in a folder of its own, on a PATH of its own, whose python3 is the one that runs the tests."""
    def __init__(self, folder):
        self.folder, self.bin = folder / "project", folder / "bin"
        self.folder.mkdir(parents=True), self.bin.mkdir()
        for name in ("bpe.py", "run.sh"):
            shutil.copy(ROOT / name, self.folder)
        for name in ("bigram_counts.py", "bigram_nn.py", "gpt.py"):
            self.write(name, STUB)
        self.write("input.txt", TEXT)
        self.edit(r"url=.*", "url=http://127.0.0.1:9/input.txt")     # nobody there: as without a network
        self.command("python3", f'exec "{sys.executable}" "$@"')
        for name in "bash cat dirname grep mkdir mv ps rm sed sleep touch".split():
            (self.bin / name).symlink_to(shutil.which(name))
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "NEEDS": "import regex", "WANDB_MODE": "disabled"}

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def read(self, name):
        return (self.folder / name).read_text()

    def there(self):
        """-> all files but what Python caches, as a set of paths"""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}

    def edit(self, pattern, new):
        """Replaces the one line of run.sh's that matches."""
        text, n = re.subn(f"^{pattern}$", lambda match: new, self.read("run.sh"), flags=re.MULTILINE)
        assert n == 1, f"{pattern} is in run.sh {n} times"
        self.write("run.sh", text)

    def command(self, name, script):
        """A program on the PATH."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def add_curl(self):
        """Without it, run.sh uses urllib."""
        if not shutil.which("curl"):
            pytest.skip("there is no curl here")
        (self.bin / "curl").symlink_to(shutil.which("curl"))

    def start(self, *args, cwd=None, **env):
        return subprocess.Popen(["bash", str(self.folder / "run.sh"), *args], cwd=cwd or self.folder, env={**self.env, **env},
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)

    def start_and_wait(self, **env):
        """Starts, and returns when a stage that was told to wait does so."""
        process = self.start(**env)
        while not (self.folder / "waiting").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    def run(self, *args, status=0, **more):
        """-> stdout, stderr; and the stages that were trained in self.trained"""
        (self.folder / "trained.txt").unlink(missing_ok=True)
        process = self.start(*args, **more)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, out + err
        self.trained = self.read("trained.txt").split() if (self.folder / "trained.txt").exists() else []
        return out, err

@pytest.fixture
def project(tmp_path):
    """A fresh clone with a text."""
    return Project(tmp_path)

@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("finished"))
    project.run()
    return project.folder / "out"

@pytest.fixture
def finished(project, finished_once):
    """A clone in which run.sh has done all."""
    shutil.copytree(finished_once, project.folder / "out")
    return project

@pytest.fixture
def bare(project):
    """A fresh clone."""
    (project.folder / "input.txt").unlink()
    return project

@pytest.fixture
def server():
    """A web server on loopback that answers `server.body` to any question."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(server.body)
        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.status = TEXT.encode(), 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()

def one_line(err, *words):
    """A user's error is one line that says what to do."""
    assert err.count("\n") == 1 and "Traceback" not in err, err
    for word in words:
        assert word in err

# -----------------------------------------------------------------------------
# stages

def test_whole_ladder(project):
    out, err = project.run()
    assert project.trained == MODELS and err == ""
    for model in MODELS:
        assert f"I am {model}, 100 tokens long" in out
    ladder = out[out.index("=== the ladder ==="):].split("\n")
    assert [line.split() for line in ladder[2:6]] == [[model, "1,000", "3.000", "7.4", "1.5", "s"] for model in MODELS]
    assert out.index("the curves of gpt") > out.index("=== the curves ===") and len(ladder) == 12
    assert ladder[-2].endswith('python3 gpt.py --sample --prompt "The "')

def test_done_it_only_prints(project):
    first, _ = project.run()
    before = {name: os.stat(project.folder / name).st_mtime_ns for name in project.there() if name != "out/made-from"}
    for script in ("bigram_counts.py", "bigram_nn.py", "gpt.py"):
        project.write(script, "raise SystemExit('trained or sampled again')")
        before.pop(script)
    project.write("gpt.py", "import sys; sys.exit(print('the curves of gpt') if '--plot' in sys.argv else 'trained or sampled again')")
    before.pop("trained.txt")
    second, err = project.run()
    assert second.splitlines() == [line for line in first.splitlines() if line in second.splitlines()] and err == ""
    assert all(f"I am {model}" in second for model in MODELS) and "=== the ladder ===" in second
    assert before.items() <= {name: os.stat(project.folder / name).st_mtime_ns for name in project.there()}.items()

@pytest.mark.parametrize("name, content", [("result.json", '{"model": "gpt", "para'), ("result.json", None), ("result.json", "{}"),
                                           ("model.pt", None), ("model.pt", "")])
def test_half_a_result_is_none(finished, name, content):
    path = finished.folder / "out/bigram_nn" / name
    path.unlink() if content is None else path.write_text(content)
    out, _ = finished.run()
    assert finished.trained == ["bigram_nn"] and "moves to" not in out
    assert json.loads(finished.read("out/bigram_nn/result.json"))["val_loss"] == 2.0 and finished.read("out/bigram_nn/model.pt")

def test_longer_trained_speaks_anew(finished):
    time.sleep(0.01)
    finished.write("out/gpt/model.pt", "better weights")
    finished.write("out/gpt/samples.txt.tmp", "half a sam")
    os.utime(finished.folder / "out/gpt/model.pt", (time.time() + 1,) * 2)
    finished.write("gpt.py", "print('I have learned more')")
    out, _ = finished.run()
    assert "I have learned more" in out and finished.trained == []

@pytest.mark.parametrize("how, status", [("fail", 1), ("nothing", 1)])
def test_failed_stage(project, how, status):
    out, err = project.run(bigram_nn=how, status=status)
    assert project.trained == ["bigram_counts", "bigram_nn"] and "ladder" not in out
    assert err.replace("error: stub is out of order\n", "", how == "fail") == \
        f"run.sh: stage bigram_nn ended unfinished (exit status {status}): the same command goes on from here\n"
    out, _ = project.run()
    assert project.trained == MODELS[1:] and "ladder" in out

@pytest.mark.parametrize("signum, group", [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGINT, True)])
def test_signal_reaches_the_stage(project, signum, group):
    process = project.start_and_wait(gpt="wait")
    (os.killpg if group else os.kill)(process.pid, signum)   # Ctrl-C goes to all that runs in the terminal
    assert process.wait(timeout=60) == 128 + signum
    assert project.read("out/gpt/state.pt") == "saved at a signal, whole"       # it was waited for
    out, err = process.communicate()
    one_line(err, "stopped", "the same command")
    assert "ladder" not in out
    out, _ = project.run()
    assert project.trained == ["gpt"] and "ladder" in out
    assert project.read("out/gpt/state.pt")                  # what was saved is what it goes on from, not moved away

def test_a_second_signal_does_not_wait(project):
    process = project.start_and_wait(gpt="linger")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None                            # as the stage sends its files to W&B
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    one_line(process.communicate()[1], "stopped", "the same command")

def test_killed_in_mid_stage(project):
    process = project.start_and_wait(bigram_nn="wait")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    out, _ = project.run()
    assert project.trained == MODELS[1:] and "moves to" not in out

def test_only_run_sh_killed(project):
    """Its stage lives on, and two at once would spoil each other's files: it is stopped, and saves, before another starts."""
    process = project.start_and_wait(gpt="wait")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    orphan = int(project.read("out/pid"))
    at_work = lambda: "gpt.py" in subprocess.run(["ps", "-p", str(orphan), "-o", "command="], capture_output=True, text=True).stdout
    assert at_work()
    out, _ = project.run()
    assert not at_work()
    assert f"stopping process {orphan}" in out and project.read("out/gpt/state.pt") == "saved at a signal, whole"
    assert project.trained == ["gpt"] and "stopping" not in project.run()[0]

# -----------------------------------------------------------------------------
# another text, another tokenizer

def test_changed_text(finished):
    tokenizer = finished.read("out/tokenizer.json")
    finished.write("out/gpt/state.pt", "long work")
    finished.write("input.txt", TEXT + "the end\n")
    out, _ = finished.run()
    assert finished.trained == MODELS
    for name in ["tokenizer.json", *MODELS]:
        assert f"the text changed: out/{name} moves to out/old-1" in out
    assert finished.read("out/old-1/tokenizer.json") == tokenizer != finished.read("out/tokenizer.json")
    assert finished.read("out/old-1/gpt/state.pt") == "long work" and not (finished.folder / "out/gpt/state.pt").exists()
    finished.write("input.txt", TEXT)
    assert "moves to out/old-2" in finished.run()[0]
    assert finished.read("out/tokenizer.json") == tokenizer and finished.trained == MODELS
    assert "moves" not in finished.run()[0] and finished.trained == []

def test_changed_text_before_the_end(project):
    """An unfinished model of the old text is put aside too, though no result.json tells whose it is."""
    project.run(gpt="fail", status=1)
    project.write("out/gpt/state.pt", "half done")
    project.write("input.txt", TEXT + "the end\n")
    project.run()
    assert project.trained == MODELS and project.read("out/old-1/gpt/state.pt") == "half done"

def test_changed_tokenizer(finished):
    subprocess.run([sys.executable, "bpe.py", "--vocab-size", "260"], cwd=finished.folder, check=True, capture_output=True)
    mine = finished.read("out/tokenizer.json")
    out, _ = finished.run()
    assert finished.trained == MODELS and out.count("the tokenizer changed: ") == 4
    assert finished.read("out/tokenizer.json") == mine and not (finished.folder / "out/old-1/tokenizer.json").exists()

def test_changed_both(finished):
    """A new text, and bpe.py typed for it: that tokenizer is kept."""
    finished.write("input.txt", TEXT + "the end\n")
    subprocess.run([sys.executable, "bpe.py", "--vocab-size", "260"], cwd=finished.folder, check=True, capture_output=True)
    mine = finished.read("out/tokenizer.json")
    out, _ = finished.run()
    assert finished.trained == MODELS and out.count("the text changed: ") == 4 and finished.read("out/tokenizer.json") == mine

def test_one_model_of_another_text(finished):
    """Retrained by hand on something else: only that one."""
    finished.write("other.txt", TEXT * 2)
    subprocess.run([sys.executable, "bigram_nn.py", "--input", "other.txt"], cwd=finished.folder, check=True)
    out, _ = finished.run()
    assert finished.trained == ["bigram_nn"] and out.count("moves to") == 1

@pytest.mark.parametrize("content", ["", '{"version": "1.0", "trunc', '{"model": {"vocab": {}, "merges": []}}'])
def test_damaged_tokenizer(finished, content):
    """It is made again from the same text, so it is the same one, and the models stay."""
    finished.write("out/tokenizer.json", content)
    out, _ = finished.run()
    assert "the tokenizer is damaged: out/tokenizer.json moves to out/old-1" in out and finished.trained == []
    assert finished.read("out/old-1/tokenizer.json") == content

@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_killed_while_moving(finished, after):
    """mv that kills run.sh after so many moves: the next start ends where an undisturbed one would, and nothing is lost."""
    old = {name: finished.read(name) for name in finished.there() if name.startswith("out/") and name not in ("out/made-from", "out/pid", "out/run")}
    finished.write("input.txt", TEXT + "the end\n")
    finished.command("mv", f'echo >> moves; [ $(grep -c "" moves) -le {after} ] || kill -9 $PPID; exec {shutil.which("mv")} "$@"')
    process = finished.start()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    finished.command("mv", f'exec {shutil.which("mv")} "$@"')
    finished.run()
    there = finished.there()
    moved = {name: next(new for new in there if re.fullmatch(r"out/old-\d/" + name[4:], new)) for name in old}
    assert {name: finished.read(new) for name, new in moved.items()} == old
    finished.run()
    assert finished.trained == []

# -----------------------------------------------------------------------------
# text

def test_no_network(bare):
    """Neither curl nor urllib gets anywhere: the language reference that every Python carries."""
    out, err = bare.run()
    line, = re.findall(r"^input.txt: .*", out, re.MULTILINE)
    assert "language reference" in line and "no network" in line and err == ""
    assert len(bare.read("input.txt")) > 300_000 and "input.txt.tmp" not in bare.there()
    assert bare.trained == MODELS
    assert "language reference" not in bare.run()[0] and bare.trained == []

def test_no_network_with_curl(bare):
    bare.add_curl()
    out, _ = bare.run()
    assert "no network: curl 7" in out and len(bare.read("input.txt")) > 300_000

@pytest.mark.parametrize("tool", ["curl", "urllib"])
def test_download(bare, server, tool):
    if tool == "curl":
        bare.add_curl()
    bare.edit(r"url=.*", f"url=http://127.0.0.1:{server.server_port}/input.txt")
    _, err = bare.run(status=1)
    one_line(err, "checksum", "save a text as input.txt")    # it is not what was asked for
    assert "input.txt" not in bare.there()
    bare.edit(r"sha256=.*", f"sha256={hashlib.sha256(TEXT.encode()).hexdigest()}")
    out, err = bare.run()
    assert "input.txt: tiny Shakespeare" in out and bare.read("input.txt") == TEXT and bare.trained == MODELS

@pytest.mark.parametrize("tool", ["curl", "curl's certificates", "urllib"])
def test_ssl_failure_is_not_no_network(bare, server, tool):
    """A server that does not speak TLS, asked for https."""
    if tool == "curl":
        bare.add_curl()
    if tool == "curl's certificates":
        bare.command("curl", "exit 60")                      # what it says of one that it does not trust
    bare.edit(r"url=.*", f"url=https://127.0.0.1:{server.server_port}/input.txt")
    out, err = bare.run(status=1)
    one_line(err, "SSL", "save a text as input.txt")
    assert "no network" not in out + err and "input.txt" not in bare.there()

def test_text_of_ones_own(project):
    """From another folder, relative to that; a file, a folder, a glob."""
    (project.folder / "input.txt").unlink()
    mine = project.folder.parent / "mine with space"
    mine.mkdir()
    (mine / "a.txt").write_text(TEXT)
    out, _ = project.run("a.txt", cwd=mine)
    assert project.trained == MODELS
    project.run(str(mine), cwd="/")
    project.run("mine*/*.txt", cwd=mine.parent)
    assert project.trained == [] and "input.txt" not in project.there()
    project.write("near.txt", TEXT)
    assert "learning from near.txt\n" in project.run("near.txt")[0]

@pytest.mark.parametrize("args, words", [(["no.txt"], ["no.txt"]), (["--fast"], ["--fast", "--help"]), (["no/*.txt"], ["no text in"]),
                                         (["a.txt", "b.txt"], ["one text"]), (["empty"], ["no text in"])])
def test_bad_arguments(project, args, words):
    (project.folder / "empty").mkdir()
    out, err = project.run(*args, status=1)
    one_line(err, *words)
    assert not any(name.startswith("out/") for name in project.there())

def test_help(project):
    out, _ = project.run("--help")
    assert "bash run.sh my.txt" in out and "#" not in out.replace("# ", "") and len(out.split("\n")) < 15

# -----------------------------------------------------------------------------
# set-up

def wheel(folder, name):
    """A package `name` that can be installed without a network -> its path"""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{name}.py", "")
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path

@pytest.fixture
def lacking(project):
    """No Python here has what is needed, but a package to install."""
    project.write("requirements.txt", str(wheel(project.folder, "wanted_package")))
    project.env["NEEDS"] = "import wanted_package"
    return project

def test_python_that_works(project):
    """Newest first, and what is not a Python 3.10 with all that is needed is passed over without a word."""
    project.command("python3", "echo pyenv: python3: command not found >&2; exit 127")
    project.command("python3.14", f'[ "$1" != -c ] || set -- -c "import sys; sys.version_info = (3, 9); $2"; exec "{sys.executable}" "$@"')
    project.command("python3.13", f'exec "{sys.executable}" -S "$@"')        # without packages
    project.command("python3.12", f'exec "{sys.executable}" "$@"')
    project.command("python3.11", "echo not this one >&2; exit 1")
    out, err = project.run("--python")
    assert (out, err) == ("python3.12\n", "") and ".venv" not in os.listdir(project.folder)

def test_active_environment_first(project):
    project.command("python", f'exec "{sys.executable}" "$@"')
    assert project.run("--python")[0] == "python3\n"
    assert project.run("--python", VIRTUAL_ENV="/somewhere")[0] == "python\n"

def test_venv(lacking):
    """The newest Python makes it; found again, it is used as it is."""
    for version in ("3.14", "3.11"):
        lacking.command(f"python{version}", f'echo {version} "$@" >> calls; exec "{sys.executable}" "$@"')
    lacking.command("python3.13", "exit 127")
    out, err = lacking.run("--python")
    assert out == ".venv/bin/python\n" and "installing requirements.txt" in err
    assert [call for call in lacking.read("calls").split("\n") if "venv .venv" in call] == ["3.14 -m venv .venv"]
    assert not (lacking.folder / ".venv/unfinished").exists()
    before = os.stat(lacking.folder / ".venv/bin").st_mtime_ns
    assert lacking.run("--python") == (".venv/bin/python\n", "")
    assert os.stat(lacking.folder / ".venv/bin").st_mtime_ns == before

def test_half_a_venv_is_removed(lacking):
    """Killed while pip works; and what `python3 -m venv` leaves on a Debian without ensurepip."""
    lacking.write("requirements.txt", "no-such-package @ file:///no/such/file.whl")
    assert "pip could not install" in lacking.run("--python", status=1)[1]
    assert (lacking.folder / ".venv/bin/python").exists()
    (lacking.folder / ".venv/half").touch()
    lacking.write("requirements.txt", str(lacking.folder / "wanted_package-1.0-py3-none-any.whl"))
    assert "removing half a .venv" in lacking.run("--python")[1]
    assert not (lacking.folder / ".venv/half").exists()

    shutil.rmtree(lacking.folder / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=lacking.folder, check=True)
    assert "removing half a .venv" in lacking.run("--python")[1]
    assert lacking.run("--python") == (".venv/bin/python\n", "")

def test_venv_of_ones_own_is_kept(lacking):
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=lacking.folder, check=True)
    lacking.write(".venv/mine", "my notes")
    assert lacking.run("--python")[0] == ".venv/bin/python\n" and lacking.read(".venv/mine") == "my notes"

def test_venv_of_uvs_is_kept(lacking):
    """It has no pip, and yet it is not half made."""
    (lacking.folder / ".venv").mkdir()
    lacking.write(".venv/pyvenv.cfg", "home = /somewhere\nuv = 0.9.0\n")
    _, err = lacking.run("--python", status=1)
    assert "pip could not install" in err and "uv = " in lacking.read(".venv/pyvenv.cfg")

def test_missing_system_package_is_named(lacking):
    (lacking.folder / "none").mkdir()
    lacking.write("none/ensurepip.py", "raise ImportError('as on Debian')")
    _, err = lacking.run(PYTHONPATH="none", status=1)
    one_line(err, "python3-venv")
    assert ".venv" not in os.listdir(lacking.folder)
