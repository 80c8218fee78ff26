"""Documents of which anything was changed: refused in a sentence, or drawn; never a traceback."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.report.html.records import through_time
from tests.report.samples import SAMPLES

import gradtrace
from gradtrace.errors import TraceFileError
from gradtrace.records.storage import pack, unpack
from gradtrace.report.html.page import render_opened
from gradtrace.report.opened import opened

ODD: tuple[Any, ...] = (None, True, 0, -1, 2, 10**6, 2**62, -(2**63), 2**64, 10**30, 1e308, 5e-324, -0.0, "nan", "inf",
                        "-inf", "", "\x1b[31m", "<script>", [], [1], {}, [[1], [2]], {"a": 1})  # fmt: skip


@cache
def documents() -> tuple[dict[str, Any], ...]:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4)
    records = (
        SAMPLES["recurrent"](),
        SAMPLES["deep"]().traces[0],
        gradtrace.through_time(lstm, lambda model, x: model(x)[0][-1].sum(), torch.randn(6, 2, 3)),
        through_time(),
        gradtrace.predict(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)),
                          torch.randn(5, 4)),
    )  # fmt: skip
    return tuple(json.loads(gzip.decompress(pack(record))) for record in records)


def mutate(document: Any, chance: random.Random) -> None:
    """One change, anywhere: another value, one less, one twice, two exchanged."""
    node: Any = None
    key: Any = None
    at = document
    while isinstance(at, (dict, list)) and at:
        node, key = at, chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
        at = at[key]
        if chance.random() < 0.08:
            break
    assert node is not None
    what = chance.random()
    if what < 0.6 or isinstance(node, dict):
        node[key] = copy.deepcopy(chance.choice(ODD))
    elif what < 0.75:
        del node[key]
    elif what < 0.9:
        node.insert(key, copy.deepcopy(chance.choice(node)))
    else:
        other = chance.randrange(len(node))
        node[key], node[other] = node[other], node[key]


def draw(document: Any) -> str:
    """All that is done with a file's record; or the sentence of its refusal."""
    try:
        record = unpack(gzip.compress(json.dumps(document).encode(), 1), Path("a.json.gz"))
    except TraceFileError as error:
        return str(error)
    record.show(Console(file=io.StringIO(), width=80))
    render_opened(opened(record, "a"))
    record._repr_html_()
    return repr(record)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))])
def test_a_changed_document_is_refused_or_drawn(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        document = copy.deepcopy(chance.choice(documents()))
        for _ in range(chance.choice((1, 1, 2, 3))):
            mutate(document, chance)
        assert "\n" not in draw(document)
