"""A fresh environment of given versions, removed afterwards: a PyTorch of a registry takes several GB."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compat.versions import Versions

ROOT = Path(__file__).parents[1]
PATIENCE_S = 2400
"""For one installation."""

TEST_TOOLS = ("hypothesis>=6.100", "matplotlib>=3.9", "pytest>=8.3", "pytest-xdist>=3.6", "sybil>=9")


class CannotBeHadError(Exception):
    """An interpreter or a package is not to be had here; the message says which and why."""


class DoesNotInstallError(Exception):
    """Torch is there, and what is to be tried with it cannot be installed beside it; the message says why."""


@dataclass(frozen=True)
class Environment:
    """Programs of one environment; `folder` is theirs to write in."""

    python: Path
    folder: Path
    install_s: float

    def run(self, *arguments: str, patience_s: float = 3600) -> subprocess.CompletedProcess[str]:
        """``python *arguments``, its output as text; a program that takes too long counts as failed."""
        command = [str(self.python), *arguments]
        environment = {**os.environ, "PYTHONPATH": "", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        try:
            return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True,
                                  check=False, timeout=patience_s)  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"took longer than {patience_s:.0f} s")


@contextlib.contextmanager
def environment(versions: Versions, packages: Sequence[str], patience_s: float = PATIENCE_S) -> Iterator[Environment]:
    """With `packages` (requirements or a path), and nothing pinned but what `versions` says."""
    interpreter = find_python(versions.python)
    folder = Path(tempfile.mkdtemp(prefix="gradtrace-compat-"))
    try:
        begun = time.monotonic()
        _uv(folder, ["venv", "--no-python-downloads", "--python", interpreter, "venv"], patience_s)
        python = folder / "venv" / "bin" / "python"
        torch = f"torch=={versions.torch}" if versions.torch else "torch"
        install = ["pip", "install", "--python", str(python), torch, versions.numpy]
        _uv(folder, install, patience_s)
        _uv(folder, [*install, *packages], patience_s, DoesNotInstallError)
        yield Environment(python, folder, time.monotonic() - begun)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_python(version: str) -> str:
    """The interpreter of that version: this one, on the path, or one of pyenv's."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    others = sorted(pyenv.glob(f"{version}.*/bin/python"))
    for candidate in [*([found] if found else []), *map(str, others)]:
        if subprocess.run([candidate, "-m", "venv", "-h"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise CannotBeHadError(f"Python {version} is not on this machine")


def _uv(folder: Path, arguments: list[str], patience_s: float, failure: type[Exception] = CannotBeHadError) -> None:
    # uv unpacks several files at once (a minute where pip takes ten), and heeds no cap in the machine's pip settings.
    command = [sys.executable, "-m", "uv", "--quiet", "--no-config", "--no-cache", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=patience_s)
    except subprocess.TimeoutExpired as error:
        raise CannotBeHadError(f"installing took longer than {patience_s:.0f} s") from error
    if done.returncode:
        raise failure((done.stderr.strip().splitlines() or ["no reason given"])[-1])
