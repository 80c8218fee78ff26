"""How does the script run for a trial? In a process of its own, in a copy of the folder, its output kept apart."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.repair.training import OutOfTime
from gradtrace.runner.fixing.exchange import Answer, Order, read, write

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from gradtrace.runner.fixing.folder import Folder

_ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1", "WANDB_MODE": "disabled", "MPLBACKEND": "Agg"}
"""Nothing is compiled, sent or shown."""
_WARM_UP_S = 300.0


class Processes:
    """All that are started for one script, one at a time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._warm: subprocess.Popen[str] | None = None
        self._may_divide = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._warm is not None:
            self._warm.kill()
            self._warm.communicate()
            self._warm = None

    def divide(self) -> None:
        """From now on the script runs in halves of a process that has imported torch: it is the same to it."""
        if not hasattr(os, "fork"):
            return
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "gradtrace.runner.fixing.warm"],
            env=_environment(Path(tempfile.gettempdir())), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1, cwd=tempfile.gettempdir(),
        )  # fmt: skip
        assert self._warm.stdout is not None
        with contextlib.suppress(OutOfTime):
            self._may_divide = _line(self._warm.stdout.fileno(), _WARM_UP_S) == b"ready\n"

    def ask(self, order: Order, timeout_s: float, edited: dict[str, str] | None = None) -> Answer:
        """Run the script, and what became of it; `edited`: texts by file, in place of the folder's own.

        Raises:
            OutOfTime: after `timeout_s`.
            InputError: the process died without a word.
        """
        with tempfile.TemporaryDirectory(prefix="gradtrace-", ignore_cleanup_errors=True) as name:
            scratch = Path(name).resolve()
            place, told, output = scratch / "folder", scratch / "order", scratch / "output"
            place.mkdir()
            self._folder.copy(place)
            for file, text in (edited or {}).items():
                (place / file).write_text(text, encoding="utf-8")
            write(told, order)
            status = self._run(told, place, output, timeout_s)
            answer = told.with_suffix(".answer")
            if not answer.is_file():
                raise InputError(f"{order.script.name} ended on the spot ({_how(status)}){_last_line(output)}")
            found = read(answer)
            assert isinstance(found, Answer)
            return found

    def _run(self, order: Path, place: Path, output: Path, timeout_s: float) -> int:
        if not self._may_divide or self._warm is None:
            return _run_fresh(order, place, output, timeout_s)
        try:
            return _run_divided(self._warm, order, place, output, timeout_s)
        except (BrokenPipeError, ValueError):  # it is gone, whatever took it
            self._may_divide = False
            return _run_fresh(order, place, output, timeout_s)


def _run_fresh(order: Path, place: Path, output: Path, timeout_s: float) -> int:
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
        finally:
            _kill(process.pid)
            process.kill()
            process.wait()


def _run_divided(warm: subprocess.Popen[str], order: Path, place: Path, output: Path, timeout_s: float) -> int:
    assert warm.stdin is not None
    assert warm.stdout is not None
    warm.stdin.write(json.dumps([str(order), str(place), str(output)]) + "\n")
    warm.stdin.flush()
    number = int(_line(warm.stdout.fileno(), _WARM_UP_S))
    try:
        return int(_line(warm.stdout.fileno(), timeout_s))
    except OutOfTime:
        _kill(number)
        _line(warm.stdout.fileno(), _WARM_UP_S)
        raise
    finally:
        _kill(number)


def _line(descriptor: int, timeout_s: float) -> bytes:
    """The next that it says, '' where it is gone; raises `OutOfTime`."""
    said, deadline = b"", time.perf_counter() + timeout_s
    while not said.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(deadline - time.perf_counter(), 0.0))[0]:
            raise OutOfTime
        letter = os.read(descriptor, 1)
        if not letter:
            break
        said += letter
    return said


def _kill(process: int) -> None:
    """And whatever it has started."""
    with contextlib.suppress(OSError, AttributeError):  # there are systems without either
        os.killpg(process, signal.SIGKILL)


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
