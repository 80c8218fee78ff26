"""Torch missing, broken, too old or something else, and a Python that is too old: one sentence, exit code 2."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradtrace

# Of `run` it is the script that says it.
COMMANDS = [
    ["demo"],
    ["demo", "rnn"],
    ["predict", "net.py:make"],
    ["check", "net.py:make"],
]

STAND_INS = {
    "missing": (
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
        "torch is not installed; install it, for example with: pip install torch",
    ),
    "without a library": (
        "raise OSError('libtorch_cpu.so: cannot open shared object file\\nmore of it')",
        "torch cannot be imported (OSError: libtorch_cpu.so: cannot open shared object file); install it, for example",
    ),
    "without a package that it needs": (
        "import sympy_that_is_not_there",
        "torch cannot be imported, for it misses sympy_that_is_not_there; install it, for example with: pip",
    ),
    "something else": ("", "what is called torch here is not PyTorch"),
    "too old": (
        "__version__ = '1.13.1+cpu'; autograd = nn = Tensor = None",
        "gradtrace needs torch 2.6 or newer, and this is 1.13.1+cpu",
    ),
}


def gradtrace_with(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(gradtrace.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "gradtrace", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("stand_in", STAND_INS)
def test_an_unfit_torch_is_one_sentence(stand_in: str, tmp_path: Path) -> None:
    source, sentence = STAND_INS[stand_in]
    (tmp_path / "torch.py").write_text(source, encoding="utf-8")
    done = gradtrace_with(tmp_path, "demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gradtrace: {sentence}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_that_torch_is_missing(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(STAND_INS["missing"][0], encoding="utf-8")
    (tmp_path / "net.py").write_text("def make():\n    import torch\n", encoding="utf-8")
    done = gradtrace_with(tmp_path, *command)
    assert done.returncode == 2
    assert "torch is not installed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_python_that_is_too_old_is_one_sentence() -> None:
    script = "import sys; sys.version_info = (3, 9, 18, 'final', 0); import gradtrace"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gradtrace needs Python 3.10 or newer, and this is 3.9\n"


def test_what_says_so_is_read_by_the_oldest_python_3() -> None:
    tree = ast.parse(Path(gradtrace.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))
    assert not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


def test_the_oldest_torch_is_said_alike_everywhere() -> None:
    from gradtrace.tape.private import OLDEST_TRIED
    from gradtrace.torch_at_hand import OLDEST

    assert OLDEST == OLDEST_TRIED
