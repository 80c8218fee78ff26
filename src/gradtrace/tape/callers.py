"""From where is a torch function called, when it is we who call it? As far as it can see, from where the user did.

A warning shows the line that called: one frame up or several (``stacklevel``), and Python keeps count of what it has
shown in that frame's module. A mode of torch functions stands in between, so that every such warning would show a line
of ours, and be shown again at the user's. The frames above the call are therefore made once more, each with its file,
line and globals, up to the first that is not torch's; those of ours, and of torch's own dispatch, are left out.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import handle_torch_function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

MARK = "<gradtrace>"
"""The name of a frame made here."""

_WITH_HOOKS = "inner"
"""Of ``Module._call_impl``: one more frame around the forward of a module that has hooks, as ours while we look."""
_TORCH = str(Path(torch.__file__).parent) + "/"
_OURS = str(Path(__file__).parents[1]) + "/"


def call_from(frame: FrameType | None, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, called from where `frame`, which called a mode's ``__torch_function__``, stands.

    >>> import sys
    >>> def here():
    ...     return sys._getframe(1).f_lineno
    >>> call_from(sys._getframe(), here, (), {}) == sys._getframe().f_lineno
    True
    """
    call = function
    for one in _callers(frame):
        code = _code_at(one.f_code.co_filename, one.f_lineno)
        args, kwargs, call = (call, args, kwargs), {}, FunctionType(code, one.f_globals)
    return call(*args, **kwargs)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Innermost first."""
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):  # a mode that is called by another
        frame = frame.f_back
    if frame is not None and frame.f_code is handle_torch_function.__code__ and frame.f_back is not None:
        frame = frame.f_back.f_back  # past the function itself, which is called again
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        is_torchs = file.startswith(_TORCH)
        if not file.startswith(_OURS) and not (is_torchs and name == _WITH_HOOKS):
            yield frame
            if not is_torchs:
                return
        frame = frame.f_back


@lru_cache(maxsize=4096)
def _code_at(filename: str, line: int) -> CodeType:
    return _TEMPLATE.replace(co_filename=filename, co_firstlineno=line, co_name=MARK)


_TEMPLATE = (lambda function, args, kwargs: function(*args, **kwargs)).__code__
