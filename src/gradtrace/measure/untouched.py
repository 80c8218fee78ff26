"""The model goes back as it came; so does all that it, the loss function and the batch hold, and the random numbers.

What is kept of all this, and within which bounds, is `snapshot.py`'s.
"""

from __future__ import annotations

import gc
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.measure.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


@contextmanager
def untouched(model: nn.Module, **others: Any) -> Iterator[list[str]]:
    """Everything that a forward and backward pass may change is put back on leaving, also after an error.

    Inside, every parameter's ``.grad`` is None, so that what a backward pass leaves there can be told apart.

    Args:
        model: the model.
        others: what else may keep state, by name: the loss function, the batch.

    Yields:
        A list that holds, after leaving, what could not be kept or put back, a sentence each.
    """
    unkept: list[str] = []
    snapshot = Snapshot.of({"model": model, **others})
    with fixed_random_state():
        try:
            for parameter in model.parameters():
                parameter.grad = None
            yield unkept
        finally:
            unkept += snapshot.restore()


class _Pauses:
    """One collector, and any number of threads that want it to pause."""

    lock = threading.Lock()
    number = 0
    is_to_resume = False


@contextmanager
def paused_collection() -> Iterator[None]:
    """No cyclic garbage collection meanwhile: each pass over a million new records would cost as much as a layer."""
    with _Pauses.lock:
        if not _Pauses.number:
            _Pauses.is_to_resume = gc.isenabled()
            gc.disable()
        _Pauses.number += 1
    try:
        yield
    finally:
        with _Pauses.lock:
            _Pauses.number -= 1
            if not _Pauses.number and _Pauses.is_to_resume:
                gc.enable()


@contextmanager
def fixed_random_state() -> Iterator[None]:
    """Python's, NumPy's and torch's generators (those of every initialised accelerator too) are put back on leaving."""
    put_back = random_state()
    try:
        yield
    finally:
        put_back()


def random_state() -> Callable[[], None]:
    """The generators as they are now: what is returned puts them back, as often as it is called.

    >>> again = random_state()
    >>> first = torch.rand(3)
    >>> again()
    >>> bool((torch.rand(3) == first).all())
    True
    """
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)

    return put_back
