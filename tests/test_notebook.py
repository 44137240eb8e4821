"""Each script pasted into a cell of a real Jupyter kernel, and run in one with %run."""
import re, shutil

import nbformat, pytest
from nbclient import NotebookClient

from conftest import ROOT, SCRIPTS, sentences

TINY = 'tokenizer="bytes", n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, eval_every=5'
CALLS = {                                                    # -> what trains, what speaks
    "bpe.py": ('made = train(Config(input="input.txt", vocab_size=270))', 'print(made.decode(made.encode("The end")))'),
    "bigram_counts.py": ('made = train(Config(tokenizer="bytes"))', 'sample(Config(prompt="The", max_new_tokens=20))'),
    "bigram_nn.py": ('made = train(Config(tokenizer="bytes", max_steps=3))', 'sample(Config(prompt="The", max_new_tokens=20))'),
    "gpt.py": (f'made = train(Config({TINY}, max_steps=4))', 'sample(Config(prompt="The", max_new_tokens=20))')}
RUN = {"bpe.py": "--vocab-size 270 --tokenizer run/tokenizer.json", "bigram_counts.py": "--tokenizer bytes --out-dir run",
       "bigram_nn.py": "--tokenizer bytes --max-steps 2 --out-dir run",
       "gpt.py": "--tokenizer bytes --max-steps 2 --n-layer=1 --n-head=1 --n-embd=8 --block-size 8 --batch-size 2 --out-dir run"}

class Cell:
    """What a cell printed, and what it raised."""
    def __init__(self, cell):
        streams = [(out.name, out.text) for out in cell.outputs if out.output_type == "stream"]
        self.stdout, self.stderr = ("".join(text for name, text in streams if name == which) for which in ("stdout", "stderr"))
        self.raised = [out.ename for out in cell.outputs if out.output_type == "error"]
        self.shown = [out.data.get("text/plain") for out in cell.outputs if out.output_type == "execute_result"]

def execute(folder, cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [Cell(cell) for cell in notebook.cells]

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    folder = tmp_path / "notebook"
    folder.mkdir()
    (folder / "input.txt").write_text(sentences(1, 6000))
    return folder

HANDLERS = "import signal; {} = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]"

@pytest.mark.parametrize("script", SCRIPTS)
def test_pasted_and_run(script, folder):
    source = (ROOT / script).read_text(encoding="utf-8")
    training, speaking = CALLS[script]
    cells = {
        "paste": source, "before": HANDLERS.format("before"), "nothing": "import os; print(os.listdir())",
        "train": training, "speak": speaking, "after": HANDLERS.format("after") + "; print(before == after)",
        "made": "print(type(made).__name__)",
        "no text": training.replace("Config(", 'Config(input="nope.txt", ', 1).replace('input="input.txt", ', ""),
        "no tokenizer": 'train(Config(tokenizer="nope.json"))' if script != "bpe.py" else 'train(Config(vocab_size=5))',
        "no model": 'sample(Config(out_dir="nowhere"))' if script != "bpe.py" else 'train(Config(pattern="("))',
        "a bug": "train(None)", "alive": "print(6 * 7)",
        "%run": f"%run {script} {RUN[script]}", "%run typo": f"%run {script} --nope", "%run help": f"%run {script} --help",
        "still alive": "print(6 * 7)"}
    if script == "gpt.py":
        cells |= {
            "interrupt": "import threading; threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
                         f'stopped = train(Config({TINY}, max_steps=100_000, out_dir="long"))',
            "stopped": HANDLERS.format("after") + "; print(type(stopped).__name__, before == after, os.listdir('long/gpt'))"}
    shutil.copy(ROOT / script, folder)
    said = dict(zip(cells, execute(folder, list(cells.values()))))

    # pasted, it defines everything, trains nothing, and prints what to type
    hint = said["paste"].stdout
    assert not said["paste"].raised and not said["paste"].stderr and hint.count("\n") == (1 if script == "bpe.py" else 2)
    assert "train(Config(" in hint and ("sample(Config(" in hint or script == "bpe.py")
    assert "'out'" not in said["nothing"].stdout

    # its functions work, and give back what they made
    for name in ("train", "speak"):
        assert not said[name].raised and not said[name].stderr, said[name].stderr
    assert said["made"].stdout.strip() == {"bpe.py": "Tokenizer", "bigram_counts.py": "Counted", "bigram_nn.py": "Bigram", "gpt.py": "GPT"}[script]
    assert "The" in said["speak"].stdout
    assert said["after"].stdout == "True\n"

    # a user's error is a line, and nothing is raised; a bug is a bug
    for name, word in (("no text", "nope.txt"), ("no tokenizer", "nope.json"), ("no model", "nowhere"), ("%run typo", "--nope")):
        cell = said[name]
        assert not cell.raised and not cell.shown and cell.stderr.startswith("error: ") and cell.stderr.count("\n") == 1, (name, vars(cell))
        assert word in cell.stderr or script == "bpe.py"
    assert said["a bug"].raised == ["AttributeError"]
    assert said["alive"].stdout == said["still alive"].stdout == "42\n"

    # %run takes flags as the shell does
    assert not said["%run"].raised and not said["%run"].stderr
    assert any(path.is_file() for path in (folder / "run").rglob("*"))
    assert "--input" in said["%run help"].stdout and not said["%run help"].raised

    if script == "gpt.py":                                   # Ctrl-C saves, and the kernel goes on
        assert not said["interrupt"].raised and "stopped at step" in said["interrupt"].stdout, vars(said["interrupt"])
        assert said["stopped"].stdout.startswith("GPT True") and "state.pt" in said["stopped"].stdout

def test_the_hint_in_a_cell_works(folder):
    """The very calls that gpt.py prints, but for their size."""
    source = (ROOT / "gpt.py").read_text(encoding="utf-8")
    train, sample = re.findall(r"((?:train|sample)\(Config\(.*?\)\))", source[source.rindex("kernel_launcher"):])
    tiny = TINY.replace('tokenizer="bytes", ', "")           # the call itself names the tokenizer
    cells = [source, train.replace("Config(", f"Config({tiny}, max_steps=2, "), sample.replace("Config(", "Config(max_new_tokens=5, ")]
    said = execute(folder, cells)
    assert not any(cell.raised or cell.stderr for cell in said), [vars(cell) for cell in said[1:]]
    assert "ROMEO:" in said[2].stdout
