"""Is this state of the model's, or does it belong to others as well?

What is put back must not be what a thread, a logger or the standard library goes on working with.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from types import CodeType

_PACKAGE = str(Path(__file__).parents[2])
_TORCH = str(Path(torch.__file__).parent)
_INSTALLED = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    _PACKAGE,
    _TORCH,
    "<frozen",
)
"""Code in these places is nobody's who uses us."""

_PLAIN = {"builtins", "abc", "typing", "collections", "collections.abc", "types", "argparse", "random", "contextlib"}
"""Modules of the standard library whose classes hold attributes and nothing else."""
_OF_TORCH = (
    "torch.optim", "torch.utils.data", "torch.utils.tensorboard", "torch.distributed", "torch._", "torch.fx",
    "torch.jit", "torch.cuda", "torch.multiprocessing", "torch.export", "torch.profiler", "torch.autograd",
    "torch.overrides",
)  # fmt: skip
_OTHERS = {*sys.stdlib_module_names, "gradtrace", "numpy", "rich", "tqdm"}
_THREADS = set("_thread threading queue _queue multiprocessing asyncio concurrent socket selectors sqlite3".split())


def belongs_to_others(kind: type) -> bool:
    """Whether instances of `kind` are a matter of the interpreter's, of torch's engine room or of ours."""
    names = [base.__module__ for base in kind.__mro__]
    return any(
        name.startswith(_OF_TORCH) or (name not in _PLAIN and name.partition(".")[0] in _OTHERS) for name in names
    )


def is_shared(attributes: dict[str, Any]) -> bool:
    """Whether an object with these attributes is one that threads share: it holds a lock, a queue, a thread."""
    return any(type(value).__module__.partition(".")[0] in _THREADS for value in attributes.values())


def is_users_class(kind: type) -> bool:
    """Whether it was defined by who uses us."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return _is_users(file) if file is not None else kind.__module__ == "__main__"


def is_users_code(code: CodeType) -> bool:
    """Whether it was written by who uses us."""
    return _is_users(code.co_filename)


def is_ours(code: CodeType) -> bool:
    """Whether it lies in this package."""
    return code.co_filename.startswith(_PACKAGE)


@cache
def _is_users(filename: str) -> bool:
    return not filename.startswith(_INSTALLED)
