"""Which rows are the steps of one recurrence? They are one row: its steps have a picture of their own, through time.

A recurrence of torch's (nn.LSTM, nn.GRU, nn.RNN) uses the weights of one layer and direction at each step, and the
gradient's way goes through many of them: rows that say the same. Their decades add up.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from gradtrace.report.rows import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.measure.ledger import LedgerRow
    from gradtrace.records.trace import Trace
    from gradtrace.report.rows import Row

_OF_LAYER = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)_(l\d+)(_reverse)?$")
"""What ``nn.RNNBase`` calls the weights of a layer and direction."""

Recurrence = tuple[str, str, str]
"""Module, layer and direction, the latter as in the names of the weights: ``("rnn", "l1", "_reverse")``."""


def merged(rows: Sequence[Row], book: Sequence[LedgerRow], trace: Trace) -> list[Row]:
    """`rows`, one for each row of `book`, with one for each recurrence in a row."""
    found: list[Row] = []
    pairs = zip(rows, (_recurrence(entry) for entry in book), strict=True)
    for recurrence, group in groupby(pairs, key=lambda pair: pair[1]):
        steps = [row for row, _ in group]
        found += steps if recurrence is None else [_named(join(steps), recurrence, trace)]
    return found


def _recurrence(entry: LedgerRow) -> Recurrence | None:
    """That a row is a step of; None where it is of none, or of several."""
    matches = [_OF_LAYER.search(name) for name in entry.parameters]
    layers = {(match[1], match[2] or "") for match in matches if match is not None}
    return (entry.module, *next(iter(layers))) if len(layers) == 1 and all(matches) else None


def _named(row: Row, recurrence: Recurrence, trace: Trace) -> Row:
    """``rnn layer 1, backward``, as its picture through time is called; with little room ``rnn l1 reverse``."""
    module, layer, reverse = recurrence
    own = {name.removeprefix(f"{module}.") for name in (p.name for p in trace.parameters) if name.startswith(module)}
    if {match.groups() for name in own if (match := _OF_LAYER.search(name))} == {("l0", None)}:
        return replace(row, num_layers=1)  # (the only one: the module's name says it all)
    path = module or "model"
    above = "" if layer == "l0" else f" layer {layer.removeprefix('l')}"
    told = f"{path}{above}{', backward' if reverse else ''}"
    return replace(row, num_layers=1, labels=(told, told, f"{path} {layer}{reverse.replace('_', ' ')}"))
