"""The exceptions a user meets, and how one is told.

Each message says what was expected, what came, where, and what to do next.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class GradtraceError(Exception):
    """Base of all errors that gradtrace raises on purpose."""


class InputError(GradtraceError, ValueError):
    """The model, loss function, batches or target are not what is needed."""


class TraceFileError(GradtraceError, ValueError):
    """A file is not a trace of ours, is cut off, or comes from a newer version."""


class NonfiniteError(GradtraceError, ArithmeticError):
    """A watched training met a NaN or Inf, and was to be stopped there."""


def describe(error: BaseException) -> str:
    """``ValueError: too small (net.py:12)``: the innermost line that is not of an installed package."""
    message = str(error).strip().split("\n")[0]
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({_relative(error.filename)}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{told} ({_relative(frames[-1].filename)}:{frames[-1].lineno})" if frames else told


def _is_users(filename: str) -> bool:
    inside = str(Path(__file__).parent)
    installed = ("site-packages", "dist-packages", "<frozen", str(Path(traceback.__file__).parent))
    return not filename.startswith(inside) and not any(part in filename for part in installed)


def _relative(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
