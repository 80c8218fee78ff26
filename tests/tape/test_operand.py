"""What a line calls the operand of an op: the name where there is one, and nothing where there are two."""

from __future__ import annotations

import linecache

import pytest

from gradtrace.tape.operand import operand_of

LINES = {
    "y = torch.sqrt(distance)": ("sqrt", "distance"),
    "y = distance.sqrt()": ("sqrt", "distance"),
    "y = torch.log(p / q.sum())": ("log", "p / q.sum()"),
    "y = a / total": ("__truediv__", "total"),
    "y = torch.div(a, total)": ("div", "total"),
    "y = a.div(total)": ("div", "total"),
    "y = base ** 0.5": ("pow", "base"),
    "y = torch.linalg.norm(v)": ("norm", "v"),
    "y = torch.sqrt(a) + torch.sqrt(b)": ("sqrt", ""),
    "y = module(x)": ("sqrt", ""),
    "y = torch.exp(": ("exp", ""),
}


@pytest.mark.parametrize("line", LINES)
def test_operands(line):
    function, operand = LINES[line]
    linecache.cache["made_up.py"] = (0, None, ["import torch\n", f"{line}\n"], "made_up.py")
    assert operand_of("made_up.py", 2, function) == operand
    assert operand_of("made_up.py", 1, function) == ""
    del linecache.cache["made_up.py"]
