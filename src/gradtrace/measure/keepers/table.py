"""Which keeper is for which object? The first row that fits; what none fits is a plain object, or another's."""

from __future__ import annotations

import functools
import itertools
import random
import types
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gradtrace.measure.keepers import containers, objects, randomness, tensors
from gradtrace.measure.keepers.belongings import belongs_to_others

if TYPE_CHECKING:
    from gradtrace.measure.keepers.found import Keeper

_TABLE: tuple[tuple[type | tuple[type, ...], Keeper], ...] = (
    (nn.Module, tensors.keep_module),
    (Tensor, tensors.keep_tensor),
    (np.ndarray, tensors.keep_array),
    ((torch.Generator, np.random.RandomState), randomness.keep_state),
    ((np.random.Generator, np.random.BitGenerator), randomness.keep_bits),
    (random.Random, randomness.keep_random),
    ((types.GeneratorType, enumerate, zip, map, filter), randomness.keep_iterator),
    ((itertools.count, itertools.cycle, itertools.chain, itertools.islice), randomness.keep_iterator),
    (randomness.WINDABLE, randomness.keep_iterator),
    (dict, containers.keep_dict),
    ((list, deque, set), containers.keep_entries),
    ((tuple, frozenset), containers.keep_fixed),
    ((bytearray, array), containers.keep_bytes),
    (types.FunctionType, objects.keep_function),
    (types.MethodType, objects.keep_method),
    (functools.partial, objects.keep_partial),
    (type, objects.keep_class),
)

CONTAINERS = (dict, list, deque, set, tuple, frozenset)
FREE = (nn.Module, nn.Parameter)
"""Always kept: a model is as large as it is."""


def keeper_of(kind: type) -> Keeper | None:
    """What keeps objects of this type; None where their state is not the model's alone."""
    found = next((keeper for known, keeper in _TABLE if issubclass(kind, known)), None)
    return found or (None if belongs_to_others(kind) else objects.keep_object)


def weight_of(value: Any) -> int:
    """What looking at it counts: itself and its entries."""
    if isinstance(value, FREE):
        return 0
    return 1 + len(value) if isinstance(value, CONTAINERS) else 1
