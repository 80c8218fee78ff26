"""Which line of the user's own is it? Neither torch's, nor Keras', nor ours."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gradtrace.tape.operand import operand_of
from gradtrace.tape.private import forward_of

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from torch.autograd.graph import Node

_PACKAGE = Path(__file__).parent.parent
_HIDDEN = (
    str(Path(torch.__file__).parent),
    *(
        str(_PACKAGE / name)
        for name in (
            "tape",
            "measure",
            "checkup",
            "integrations",
            "recurrence",
            "audit",
            "monitor",
            "repair",
            "runner",
            "commands/target.py",
        )
    ),
)


def defined_at(node: Node) -> str:
    """``file.py:12`` where the custom function behind `node` is defined; '' for torch's own ops."""
    code = getattr(forward_of(node), "__code__", None)
    return line_of(code) if code is not None and _is_user_code(code) else ""


def line_of(code: CodeType) -> str:
    """``file.py:12`` where a function begins."""
    return f"{_short(code.co_filename)}:{code.co_firstlineno}"


def _is_user_code(code: CodeType) -> bool:
    known = _USERS.get(code.co_filename)  # by name: the hash of a code object goes through all of it
    if known is None:
        keras = getattr(sys.modules.get("keras"), "__file__", None)  # it makes torch's ops in lines of its own
        hidden = (*_HIDDEN, "<frozen", *([str(Path(keras).parent)] if keras is not None else ()))
        known = _USERS[code.co_filename] = not code.co_filename.startswith(hidden)
    return known


_USERS: dict[str, bool] = {}


def source_of(frame: FrameType | None) -> str:
    """``file.py:12`` of the innermost frame that is neither torch's nor Keras' nor ours."""
    while frame is not None and not _is_user_code(frame.f_code):
        frame = frame.f_back
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else ""


def _short(filename: str) -> str:
    """Of a notebook's cell its number, which is another when it is run again: ``In[3]``."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cell = shell.compile.format_code_name(filename) if shell is not None else None
    if cell is None:
        return _relative(filename)
    _FILES[cell[1]] = filename
    return str(cell[1])


@cache
def _relative(filename: str) -> str:
    path = Path(filename)
    try:
        told = str(path.relative_to(Path.cwd()))
    except ValueError:
        told = "/".join(path.parts[-2:])
    _FILES[told] = filename
    return told


_FILES: dict[str, str] = {}
"""The whole name of each file that was told."""


def operand_at(source: str, function: str) -> str:
    """What the line `source` (``file.py:12``) calls the operand of `function`; '' where it is not known."""
    told, _, line = source.rpartition(":")
    return operand_of(_FILES[told], int(line), function) if told in _FILES and function else ""
