"""How does the script run for a trial? In a process of its own, in a copy of the folder, its output kept apart."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.repair.training import OutOfTime
from gradtrace.runner.fixing.exchange import Answer, Order, read, write

if TYPE_CHECKING:
    from gradtrace.runner.fixing.folder import Folder

_ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1", "WANDB_MODE": "disabled", "MPLBACKEND": "Agg"}
"""Nothing is compiled, sent or shown."""


def ask(order: Order, folder: Folder, timeout_s: float, edited: dict[str, str] | None = None) -> Answer:
    """Run the script, and what became of it; `edited`: texts by file, in place of the folder's own.

    Raises:
        OutOfTime: after `timeout_s`.
        InputError: the process died without a word.
    """
    with tempfile.TemporaryDirectory(prefix="gradtrace-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        place, told, output = scratch / "folder", scratch / "order", scratch / "output"
        place.mkdir()
        folder.copy(place)
        for file, text in (edited or {}).items():
            (place / file).write_text(text, encoding="utf-8")
        write(told, order)
        status = _run(told, place, output, timeout_s)
        answer = told.with_suffix(".answer")
        if not answer.is_file():
            raise InputError(f"{order.script.name} ended on the spot ({_how(status)}){_last_line(output)}")
        found = read(answer)
        assert isinstance(found, Answer)
        return found


def _run(order: Path, place: Path, output: Path, timeout_s: float) -> int:
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gradtrace.runner.fixing.child", str(order)],
            cwd=place, env=_environment(place), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        finally:  # and whatever it has started
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(place: Path) -> dict[str, str]:
    own = str(Path(__file__).resolve().parents[3])
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]  # noqa: PTH100
    if "site-packages" not in own and own not in paths:
        paths.append(own)
    seed = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
    return {**os.environ, **_ENVIRONMENT, **seed, "PYTHONPATH": os.pathsep.join(paths), "PWD": str(place)}


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _last_line(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"; the last that it said: {lines[-1][:200]}" if lines else ""
