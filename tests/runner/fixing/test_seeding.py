"""Seeds: once before the script; those that it sets itself are moved by as much, and seed 0 moves nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, random, sys
from gradtrace.runner.fixing.seeding import Seeds
seeds = Seeds({number})
seeds.begin()
import numpy, torch
before = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
random.seed(7); numpy.random.seed(seed=8); torch.manual_seed(9)
print(json.dumps([before, [random.random(), float(numpy.random.rand()), float(torch.rand(()))], seeds.own]))
"""


def drawn(number):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=number)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.long
def test_seed_0_leaves_the_script_s_own_as_they_are_and_another_moves_them():
    import random

    import numpy as np
    import torch

    before, own, seen = drawn(0)
    other_before, other_own, _ = drawn(2)
    assert seen == [7, 8, 9]
    for number, found in ((0, own), (2, other_own)):
        expected = [
            random.Random(7 + number).random(),
            float(np.random.RandomState(8 + number).rand()),
            float(torch.rand((), generator=torch.Generator().manual_seed(9 + number))),
        ]
        assert found == pytest.approx(expected)
    assert all(a != b for a, b in zip(before, other_before, strict=True))
