"""How is float16 autocast made bfloat16's, on a copy, without an edit of the code?

While the context is open, whoever enters `torch.autocast` for float16 enters it for bfloat16; the object is as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def autocast_in_bfloat16() -> Iterator[None]:
    """For all that is computed inside, `torch.cuda.amp.autocast` and decorated functions included."""
    own = torch.autocast.__enter__

    def enter(context: Any) -> Any:
        asked = context.fast_dtype
        if asked is torch.float16:
            context.fast_dtype = torch.bfloat16
        try:
            return own(context)  # type: ignore[no-untyped-call]
        finally:
            context.fast_dtype = asked

    torch.autocast.__enter__ = enter  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = own  # type: ignore[method-assign]
