from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from gradtrace.placement import move

Pair = namedtuple("Pair", "a b")


@dataclass(frozen=True)
class Batch:
    inputs: torch.Tensor
    name: str


@pytest.mark.parametrize("build", [lambda x: x, lambda x: [x], lambda x: (1, x), lambda x: {"k": [x, "text"]},
                                   lambda x: Pair(x, None), lambda x: Batch(x, "n"), lambda x: OrderedDict(k=x),
                                   lambda x: UserDict(k=x)])  # fmt: skip
def test_tensors_move_and_containers_keep_their_types(build):
    before = build(torch.ones(2))
    after = move(before, torch.device("meta"))
    assert type(after) is type(before)
    assert str(after).count("meta") == 1


def test_what_is_no_tensor_stays():
    assert move(("a", 1, None), torch.device("meta")) == ("a", 1, None)
