"""Which variables does a loop bind? ``for p in layers: ...`` leaves `p` behind, which is but the last of `layers`.

Read off the bytecode, which says it of a module and of a function alike: what is stored next to a ``FOR_ITER``.
"""

from __future__ import annotations

import dis
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

_ON_THE_WAY = ("EXTENDED_ARG", "UNPACK_SEQUENCE", "UNPACK_EX")


def bound_by_loops(code: CodeType) -> frozenset[str]:
    """Names of `code` itself, without the functions within it.

    >>> sorted(bound_by_loops(compile("for i, (name, p) in it: w = p", "train.py", "exec")))
    ['i', 'name', 'p']
    """
    found, follows = set[str](), False
    for instruction in dis.get_instructions(code):
        if instruction.opname == "FOR_ITER":
            follows = True
        elif follows and instruction.opname.startswith("STORE_"):
            found |= _stored(instruction)
        elif instruction.opname not in _ON_THE_WAY:
            follows = False
    return frozenset(found)


@lru_cache(maxsize=64)
def bound_by_loops_in(file: str | None) -> frozenset[str]:
    """Names of a module by its file; none where it cannot be read, as that of a notebook."""
    try:
        return bound_by_loops(compile(Path(file or "").read_bytes(), file or "", "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError):
        return frozenset()


def _stored(instruction: dis.Instruction) -> set[str]:
    """Since Python 3.13 one instruction may store two, or store one and load another."""
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    return set(names[:1] if "LOAD" in instruction.opname else names)
