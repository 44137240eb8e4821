"""
What the tests share: a text and a tokenizer made on the spot, and scripts run as users run them.

`run("gpt.py", "--max-steps", 5)` copies the script alone into an empty folder and runs it there, as a process of
its own. Importing torch takes seconds, and there are hundreds of runs: a server that has imported it forks for each.
"""
import importlib.util, itertools, json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = "1"                          # before torch: the same sums in the same order everywhere
os.environ.setdefault("TEST_WANDB", os.environ.get("WANDB_API_KEY", ""))    # for test_wandb.py: no other test tracks
os.environ.update(WANDB_MODE="disabled")
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["bpe.py", "bigram_counts.py", "bigram_nn.py", "gpt.py"]
MODELS = SCRIPTS[1:]
TINY = "--tokenizer bytes --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --warmup 3 --eval-every 10".split()

sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)

def sentences(seed, n_bytes):
    """A text of few words, in which some follow each other more than others do."""
    rng = random.Random(seed)
    words = "the a sun moon sea king queen cat dog sleeps runs sings loves fears old red small and but of in on".split()
    text, now = "", 0
    while len(text) < n_bytes:
        line = []
        for _ in range(rng.randint(3, 9)):
            now = (now * 7 + int(rng.expovariate(0.5))) % len(words)
            line.append(words[now])
        text += " ".join(line).capitalize() + rng.choice([".", ".", ".", "!", "?", ", it's 1234;"]) + "\n"
    return text

# -----------------------------------------------------------------------------
# a server that forks

SERVER = r'''
import json, os, runpy, signal, sys, time, traceback
import regex, torch, torch._dynamo, difflib, unicodedata
from torch.utils.data import DataLoader
w = torch.nn.Linear(2, 2)                                    # what is imported by the first step
w(torch.ones(1, 2)).sum().backward()
torch.optim.AdamW([w.weight, w.bias]).step()
requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
request = {}
for line in requests:
    request = json.loads(line)
    if "wait" in request:
        pid, status, until = 0, 0, time.time() + request["timeout"]
        while not pid and time.time() < until:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            pid or time.sleep(0.003)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), file=replies)
        continue
    pid = os.fork()
    if not pid:
        break
    print(pid, file=replies)
if request and not pid:                                      # the child: from here on, a script of its own
    os.close(requests.fileno()), os.close(replies.fileno())
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    if request["file_limit"]:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    for fd, (path, flags) in enumerate(request["files"]):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, fd)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))
    sys.argv, sys.path[0] = request["argv"], os.path.dirname(os.path.abspath(request["argv"][0]))
    before = request["before"]
    status = 1
    try:
        exec(compile(before, "<before>", "exec"), {})
        if request["patch"]:                                 # run as main(), with something in it replaced
            scope = runpy.run_path(sys.argv[0], run_name="patched")
            scope = scope["main"].__wrapped__.__globals__
            exec(compile(request["patch"], "<patch>", "exec"), scope)
            scope["main"]()
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        print("Exception ignored: BrokenPipeError", file=sys.stderr)
        status = 120
    sys.stderr.flush()
    os._exit(status)                                         # to tear down what was imported would take seconds
'''

class Server:
    def __init__(self, folder):
        self.log = open(folder / "server.log", "w")
        self.process = subprocess.Popen([sys.executable, "-B", "-c", SERVER], text=True, bufsize=1, stderr=self.log,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin)
        return json.loads(self.process.stdout.readline())

class Running:
    """A script that runs. .wait() -> returncode, stdout, stderr"""
    def __init__(self, server, folder, argv, stdin, env, stdout, before, patch, file_limit):
        self.server, self.name = server, folder / f"_{next(COUNTER)}"
        self.path(0).write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        files = [(str(self.path(0)), os.O_RDONLY), (str(stdout or self.path(1)), write), (str(self.path(2)), write)]
        self.pid = server.ask(argv=argv, cwd=str(folder), env=env, files=files, before=before, patch=patch,
                              file_limit=file_limit)

    def path(self, fd):
        return self.name.parent.parent / f"{self.name.parent.name}{self.name.name}.{fd}"

    def stdout(self):
        return self.path(1).read_text(errors="surrogateescape") if self.path(1).exists() else ""

    def until(self, words, seconds=30):
        """Waits until the script has printed these words."""
        end = time.time() + seconds
        while words not in self.stdout():
            assert time.time() < end, f"never printed {words!r}: {self.stdout()} {self.path(2).read_text()}"
            time.sleep(0.003)

    def kill(self, signum=signal.SIGKILL):
        os.kill(self.pid, signum)                            # it is there, at least as a zombie, until waited for

    def wait(self, timeout=60):
        status = self.server.ask(wait=self.pid, timeout=timeout)
        if status is None:
            self.kill()
            self.server.ask(wait=self.pid, timeout=10)
            pytest.fail(f"still running after {timeout} s: {self.stdout()}")
        return SimpleNamespace(returncode=status, stdout=self.stdout(), stderr=self.path(2).read_text(errors="replace"))

COUNTER = itertools.count()

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "test_wandb" not in item.nodeid)       # the longest first: two processes share the files

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()                                    # to tear down what it imported takes it seconds
    server.process.wait()
    server.process.stdin.close()
    server.process.stdout.close()
    server.log.close()

class Workshop:
    """A folder with scripts copied into it one by one, as they are run."""
    def __init__(self, server, path):
        self.server, self.path = server, path

    def start(self, script, *flags, stdin=b"", env={}, stdout=None, before="", patch="", file_limit=0):
        if not (self.path / script).exists():
            shutil.copy(ROOT / script, self.path)
        return Running(self.server, self.path, [script, *map(str, flags)], stdin, env, stdout, before, patch, file_limit)

    def run(self, *args, timeout=60, **kwargs):
        return self.start(*args, **kwargs).wait(timeout)

    def ok(self, *args, **kwargs):
        """-> stdout of a run that must succeed, and say nothing on stderr"""
        result = self.run(*args, **kwargs)
        assert (result.returncode, result.stderr) == (0, ""), f"{args}: {result}"
        return result.stdout

    def fails(self, *args, **kwargs):
        """-> the one line on stderr of a run that must fail, and leave what is there untouched"""
        before = self.files()
        result = self.run(*args, **kwargs)
        assert result.returncode == 1, f"{args}: {result}"
        assert result.stderr.startswith("error: "), result.stderr
        assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
        after = self.files()
        assert after == {**after, **before}, f"{args} changed {[name for name in before if after.get(name) != before[name]]}"
        return result.stderr

    def files(self):
        return {str(path.relative_to(self.path)): path.read_bytes() for path in self.path.rglob("*") if path.is_file()}

    def load(self, name):
        return torch.load(self.path / name, weights_only=True)

    def write(self, name, data):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def fork(self, path):
        """-> a copy of all this in another folder"""
        shutil.copytree(self.path, path, dirs_exist_ok=True)
        return Workshop(self.server, path)

def shop_at(server, path):
    path.mkdir(parents=True)
    shop = Workshop(server, path)
    shop.write("input.txt", sentences(1, 6000))
    return shop

@pytest.fixture
def shop(server, tmp_path):
    """An empty folder with input.txt in it."""
    return shop_at(server, tmp_path / "shop")

@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A folder in which everything has been trained once, on little. Not to be written to: .fork() it."""
    shop = Workshop(server, tmp_path_factory.mktemp("trained") / "shop")
    shop.write("input.txt", sentences(1, 20000))
    shop.ok("bpe.py", "--vocab-size", 300)
    shop.ok("bigram_counts.py")
    shop.ok("bigram_nn.py", "--max-steps", 5)
    shop.ok("gpt.py", *TINY[2:], "--max-steps", 12)
    return shop

def load_script(name):
    """-> a script as a module of its own"""
    spec = importlib.util.spec_from_file_location(name[:-3], ROOT / name)
    module = sys.modules[name[:-3]] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.fixture(scope="session")
def gpt():
    return load_script("gpt.py")

@pytest.fixture(scope="session")
def bigram_nn():
    return load_script("bigram_nn.py")

@pytest.fixture(scope="session")
def bigram_counts():
    return load_script("bigram_counts.py")
