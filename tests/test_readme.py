"""The README's commands, as typed, on a small text, with the numbers of steps cut down."""
import os, re, shutil, subprocess, sys
from pathlib import Path
from pydoc_data.topics import topics

from test_wandb import KEY, ONLINE, new_name

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def test_no_block_is_empty():
    lines = [line for line in README.splitlines() if line.strip()]
    opens = [n for n, line in enumerate(lines) if line.startswith("```")][::2]
    assert len(opens) > 10 and not [n for n in opens if lines[n + 1].startswith("```")]


def test_commands(tmp_path):
    for name in ("bpe.py", "bigram_counts.py", "bigram_nn.py", "gpt.py", "run.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, number, small in (("bigram_nn.py", "flag(1000, ", "flag(3, "), ("gpt.py", "preset(1400, 2000, ", "preset(3, 3, ")):
        script = tmp_path / name
        text = script.read_text(encoding="utf-8")
        assert text.count(number) == 1
        script.write_text(text.replace(number, small), encoding="utf-8")
    (tmp_path / "input.txt").write_text("".join(topics[name] for name in sorted(topics))[:200_000], encoding="utf-8")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
           "VIRTUAL_ENV": str(Path(sys.executable).parent.parent)}
    assert "bash run.sh" in COMMANDS and "bash tests/run.sh" in COMMANDS and len(COMMANDS) > 10
    name = new_name()
    anywhere, nowhere = shutil.copytree(tmp_path, tmp_path / "anywhere"), tmp_path / "nowhere"
    nowhere.mkdir()
    shutil.copy(ROOT / "gpt.py", nowhere)
    for command in COMMANDS:
        cwd, more = tmp_path, {}
        if "my-gpt" in command:                              # these need W&B
            if not KEY:
                continue
            cwd, more = nowhere if "--sample" in command else anywhere, ONLINE
            command = command.replace("my-gpt", name)
        if command != "bash tests/run.sh":
            command = command.replace("--max-steps 4000", "--max-steps 6").replace(
                "--tune 20", "--tune 1 --trial-seconds 1 --n-layer 1 --n-embd 64 --block-size 64 --batch-size 4")
            result = subprocess.run(command, shell=True, cwd=cwd, env={**env, **more}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            assert (result.returncode, result.stderr) == (0, ""), f"{command}\n{result.stdout}\n{result.stderr}"
    assert "| bigram, counted |" in README
