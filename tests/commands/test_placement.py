from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from tests.commands.calling import run

from gradtrace.commands.placement import move

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


def test_models_and_batches_move(net, verdict):
    assert run("check", "net.py:build", "--device", "meta").exit_code == 0
    model, _, batches, _ = verdict["calls"][0]
    assert {model.weight.device.type, *(batch.device.type for batch in batches)} == {"meta"}
    assert len(list(batches)) == len(list(batches)) == len(batches) == 1


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_wrong_device_is_2(net, verdict, device):
    result = run("check", "net.py:build", "--device", device)
    assert result.exit_code == 2
    assert f"gradtrace: --device {device}: " in result.stderr
