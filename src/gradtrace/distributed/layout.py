"""Which column of a report is which parameter? Those of rank 0 first, then what only others hold (pipeline stages)."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.records.run import WatchedParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.channel import Channel


MOST_STAGES = 64
"""Of a pipeline whose traces are sent around."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The same columns on every rank."""

    columns: tuple[WatchedParameter, ...]
    places: NDArray[np.int64]
    """[local columns, and then local buffers]: the column of the report."""
    buffers: tuple[str, ...] = ()
    """Names; in the report they stand behind the parameters."""
    versions: tuple[tuple[int, str], ...] = ()
    """Of torch, each with the first rank that has it."""
    is_staged: bool = False
    """Whether no rank watches all of it: stages of a pipeline."""


def agree(channel: Channel, own: Sequence[WatchedParameter], buffers: Sequence[WatchedParameter] = ()) -> Layout:
    """All ranks at once."""
    text = json.dumps([_to_lists(own), _to_lists(buffers), str(torch.__version__)]).encode()
    told = [(rank, json.loads(text)) for rank, text in channel.tables(text, zlib.crc32(text))]
    both = [
        merge([(rank, _from_lists(tables[i])) for rank, tables in told], mine) for i, mine in enumerate((own, buffers))
    ]
    places = np.concatenate([both[0].places, len(both[0].columns) + both[1].places])
    versions = {tables[2]: rank for rank, tables in reversed(told)}
    first = tuple(sorted((rank, version) for version, rank in versions.items()))
    largest = max(len(tables[0]) for _, tables in told)
    is_staged = largest < len(both[0].columns) and len(told) <= MOST_STAGES
    return Layout(both[0].columns, places, tuple(one.name for one in both[1].columns), first, is_staged)


def merge(tables: Sequence[tuple[int, Sequence[WatchedParameter]]], own: Sequence[WatchedParameter]) -> Layout:
    """Of tables with the first rank that has each.

    A parameter of the same name and another shape is another one.

    >>> a, b = WatchedParameter("a", (2,), "float32"), WatchedParameter("b", (3,), "float32")
    >>> layout = merge([(0, [a]), (1, [b, a])], [b, a])
    >>> [column.name for column in layout.columns], layout.places.tolist()
    (['a', 'b'], [1, 0])
    """
    known: dict[tuple[str, tuple[int, ...]], int] = {}
    columns: list[WatchedParameter] = []
    names: set[str] = set()
    for rank, table in tables:
        for one in table:
            if (one.name, one.shape) not in known:
                known[one.name, one.shape] = len(columns)
                columns.append(replace(one, name=f"{one.name} (rank {rank})") if one.name in names else one)
                names.add(one.name)
    return Layout(tuple(columns), np.array([known[one.name, one.shape] for one in own], np.int64))


def _to_lists(columns: Sequence[WatchedParameter]) -> list[Any]:
    return [[one.name, one.shape, one.dtype, one.optimizer] for one in columns]


def _from_lists(columns: list[Any]) -> list[WatchedParameter]:
    return [WatchedParameter(name, tuple(shape), dtype, holder) for name, shape, dtype, holder in columns]
