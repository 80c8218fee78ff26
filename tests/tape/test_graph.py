"""The tape as a graph, where it is very deep."""

from __future__ import annotations

import subprocess
import sys

CHAIN = """
import torch, gradtrace
from torch import nn

class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        y = x * self.weight
        for _ in range(60_000):
            y = y.neg()
        return y

trace = gradtrace.trace(Chain(), lambda model, x: model(x).sum(), torch.ones(1, 2))
print(len(trace.ops), trace.parameters[0].gradient.norm)
"""


def test_a_chain_of_60_000_ops_does_not_overflow_the_stack() -> None:
    result = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["60003", str(2**0.5)]
