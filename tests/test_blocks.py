"""Each script is complete and alone; what several of them need is copied, and the copies are the same."""
import ast, difflib, itertools, os, re, shutil, subprocess, sys
from dataclasses import fields

import pytest

from conftest import MODELS, ROOT, SCRIPTS, load_script, sentences

RULER = "# " + "-" * 77
PROMISES = {"every script": SCRIPTS, "every model": MODELS, "both bigrams": ["bigram_counts.py", "bigram_nn.py"],
            "bigram_nn.py and gpt.py": ["bigram_nn.py", "gpt.py"]}
COMMON = "input tokenizer out_dir seed device sample prompt num_samples max_new_tokens temperature top_k".split()

def source(name):
    return (ROOT / name).read_text(encoding="utf-8")

def sections(name):
    """-> {title: the lines below it, up to the next ruler}, in the file's order"""
    parts = source(name).split("\n" + RULER + "\n")[1:]
    titles = [part.split("\n", 1)[0] for part in parts]
    assert all(re.match(r"# [a-z]+", title) for title in titles), titles
    assert len(set(titles)) == len(titles)
    parts[-1] += "\n"
    return {title[2:]: part.split("\n", 1)[1].rstrip("\n") for title, part in zip(titles, parts)}

def key(title):
    return re.match("[a-z]+", title).group()

def test_every_ruler_is_followed_by_a_title():
    for name in SCRIPTS:
        assert source(name).count(RULER) == len(sections(name))
        assert not [line for line in source(name).splitlines() if re.fullmatch(r"#+ ?[-=#*]{20,}", line) and line != RULER]

def test_copied_blocks_are_the_same():
    found = {}
    for name in SCRIPTS:
        for title, body in sections(name).items():
            if "(same in " in title:
                found.setdefault(title, {})[name] = body
    assert len(found) >= 6, found.keys()
    for title, bodies in found.items():
        promise = re.search(r"\(same in (.*)\)$", title).group(1)
        assert set(bodies) == set(PROMISES[promise]), f"{title!r} is in {sorted(bodies)}"
        first, *others = bodies
        for other in others:
            assert bodies[other] == bodies[first], "\n".join(difflib.unified_diff(
                bodies[first].split("\n"), bodies[other].split("\n"), f"{title} in {first}", f"in {other}", lineterm="", n=0))

def test_a_block_is_not_copied_without_saying_so():
    own = {}
    for name, (title, body) in ((name, section) for name in SCRIPTS for section in sections(name).items()):
        if "(same in " not in title:
            own.setdefault(body, []).append(f"{name}: {title}")
    twice = [titles for titles in own.values() if len(titles) > 1 and key(titles[0].split(": ")[1]) != "main"]
    assert not twice

def test_sections_come_in_the_same_order():
    orders = {name: [key(title) for title in sections(name)] for name in SCRIPTS}
    for one, other in itertools.combinations(SCRIPTS, 2):
        shared = set(orders[one]) & set(orders[other])
        assert {"frame", "tokenizer", "text", "config", "train", "main"} <= shared
        assert [k for k in orders[one] if k in shared] == [k for k in orders[other] if k in shared]

def imports(name):
    """-> the packages a script imports, wherever it does"""
    nodes = list(ast.walk(ast.parse(source(name))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {each.split(".")[0] for each in names}

def metadata(name):
    """-> the dict of the PEP 723 block: python and packages"""
    block = re.search(r"(?m)^# /// script\n((?:#(?: .*)?\n)+?)# ///$", source(name))
    assert block and source(name).index(block.group()) == 0
    lines = [line[2:] for line in block.group(1).splitlines()]
    return {left: ast.literal_eval(right) for left, right in (line.split(" = ", 1) for line in lines)}

@pytest.mark.parametrize("name", SCRIPTS)
def test_imports_are_what_the_metadata_says(name):
    packages = imports(name) - set(sys.stdlib_module_names)
    assert not packages & {script[:-3] for script in SCRIPTS}, "a script imports another"
    optional = {"matplotlib", "IPython", "wandb"}            # imported only in functions that do without
    assert packages - optional == set(metadata(name)["dependencies"]) - optional
    assert metadata(name)["requires-python"] == ">=3.10"
    ast.parse(source(name), feature_version=(3, 10))

def test_metadata_and_requirements_agree():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    pinned = {re.match(r"[\w-]+", line).group(): line for line in lines if line and not line.startswith("-")}
    assert all("==" in line for line in pinned.values())
    needed = set().union(*(metadata(name)["dependencies"] for name in SCRIPTS))
    assert needed <= set(pinned) and set(pinned) <= needed | {"wandb"}

@pytest.mark.parametrize("name", SCRIPTS)
def test_calls_that_are_easy_to_get_wrong(name):
    calls = [node for node in ast.walk(ast.parse(source(name))) if isinstance(node, ast.Call)]
    for call in calls:
        words, function = {word.arg: word.value for word in call.keywords}, ast.unparse(call.func)
        if function == "torch.load":
            assert ast.unparse(words["weights_only"]) == "True", f"line {call.lineno}"
        if function == "open":
            mode = ast.literal_eval(call.args[1] if len(call.args) > 1 else words.get("mode", ast.Constant("r")))
            assert "b" in mode or ast.unparse(words["encoding"]) == "'utf-8'", f"line {call.lineno}"
        assert function not in ("torch.backends.cuda.is_bf16_supported", "torch.cuda.is_bf16_supported", "inspect.getsource")
        assert not function.endswith("parse_known_args")

def test_common_flags_are_the_same():
    configs = {name: {f.name: f for f in fields(load_script(name).Config)} for name in SCRIPTS}
    for one, other in itertools.combinations(SCRIPTS, 2):
        for flag in COMMON if "bpe.py" not in (one, other) else ("input", "tokenizer"):
            a, b = configs[one][flag], configs[other][flag]
            assert a.type is b.type and a.default == b.default, f"--{flag} of {one} and {other}"
            if flag not in ("out_dir", "seed", "tokenizer"):
                alike = difflib.SequenceMatcher(None, a.metadata["help"], b.metadata["help"]).ratio()
                assert alike > 0.9, f"--{flag}: {a.metadata['help']} / {b.metadata['help']}"
    defaults = {flag: configs["gpt.py"][flag].default for flag in COMMON}
    assert defaults == dict(input="input.txt", tokenizer="out/tokenizer.json", out_dir="out", seed=1337, device="auto",
                            sample=False, prompt="", num_samples=1, max_new_tokens=200, temperature=1.0, top_k=0)

@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_is_typed_and_explained(name):
    for f in fields(load_script(name).Config):
        assert f.type in (int, float, str, bool) and type(f.default) in (f.type, int)
        assert f.default is not None and len(f.metadata["help"]) > 5, f.name

@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, shop):
    config, script = load_script(name).Config, source(name)
    text = shop.ok(name, "--help", env={"COLUMNS": "200"})
    shown = re.findall(r"^  --([a-z-]+)", text, re.MULTILINE)
    assert shown == [f.name.replace("_", "-") for f in fields(config)]
    for f in fields(config):
        line = re.search(rf"^  --{f.name.replace('_', '-')}[ ,\n].*(\n {{10,}}.*)*", text, re.MULTILINE).group()
        assert f.metadata["help"] in " ".join(text.split()), f.name
        if f.default not in (False, "", -1) and len(str(f.default)) < 30:
            assert f"(default: {f.default})" in line
    assert ast.get_docstring(ast.parse(script)) in text

    # the source is read, then gone: the help is the same
    gone = ("import os, sys; source = open(sys.argv[0], encoding='utf-8').read(); os.remove(sys.argv[0]); "
            "sys.argv[0] = '-c'; exec(source, {'__name__': '__main__', '__doc__': None})")
    again = shop.ok(name, "--help", env={"COLUMNS": "200"}, before=gone)
    assert again.replace("usage: -c", f"usage: {name}").split() == text.split()
    assert not (shop.path / name).exists()

@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_in_the_docstring_are_flags_there_are(name):
    flags = {"--" + f.name.replace("_", "-") for f in fields(load_script(name).Config)}
    commands = re.findall(rf"^    python {name}(.*)", ast.get_docstring(ast.parse(source(name)), clean=False), re.MULTILINE)
    assert commands
    for command in commands:
        assert set(re.findall(r"(?<=\s)--[a-z-]+", command.split("  #")[0])) <= flags, command

@pytest.mark.parametrize("name", SCRIPTS)
def test_alone_in_an_empty_folder(name, tmp_path):
    """A real python, without this one's path, and no file but the script."""
    shutil.copy(ROOT / name, tmp_path)
    text = tmp_path.parent / (tmp_path.name + ".txt")
    text.write_text(sentences(1, 3000))
    flags = ["--vocab-size", "270"] if name == "bpe.py" else ["--tokenizer", "bytes"]
    flags += ["--max-steps", "2"] if name in ("bigram_nn.py", "gpt.py") else []
    flags += "--n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2".split() if name == "gpt.py" else []
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, name, "--input", str(text), *flags], cwd=tmp_path, env=env, capture_output=True,
                          text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    made = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {name}
    assert made == ({"tokenizer.json"} if name == "bpe.py" else {"model.pt", "result.json"} if name == "bigram_counts.py" else
                    {"model.pt", "result.json", "metrics.csv"} if name == "bigram_nn.py" else
                    {"model.pt", "result.json", "metrics.csv", "state.pt", "stable.pt", "gpt.lock"})
