"""Do the README's command lines work as shown? (Its Python blocks are executed by ../conftest.py.)"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.long
def test_the_command_lines_work_in_order(tmp_path):
    (net,) = (block for block in _blocks("python") if block.startswith("# net.py"))
    (tmp_path / "net.py").write_text(net, encoding="utf-8")
    shutil.copytree(Path(__file__).parents[1] / "examples", tmp_path / "examples")
    for command in ("init -q", "add .", "-c user.name=N -c user.email=n@example.org commit -qm net"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)  # `fix --write` asks for it
    lines = [line for block in _blocks("bash") for line in block.splitlines() if line.startswith("gradtrace ")]
    assert len(lines) >= 5
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        command = [sys.executable, "-m", "gradtrace", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"


def test_the_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets
