"""Which column of a report is which parameter? Those of rank 0 first, then what only others hold (pipeline stages)."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run import WatchedParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.channel import Channel


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The same columns on every rank."""

    columns: tuple[WatchedParameter, ...]
    places: NDArray[np.int64]
    """[local columns]: the column of the report."""


def agree(channel: Channel, own: Sequence[WatchedParameter]) -> Layout:
    """All ranks at once."""
    text = _to_text(own)
    return merge([(rank, _from_text(told)) for rank, told in channel.tables(text, zlib.crc32(text))], own)


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


def _to_text(columns: Sequence[WatchedParameter]) -> bytes:
    return json.dumps([[one.name, one.shape, one.dtype, one.optimizer] for one in columns]).encode()


def _from_text(text: bytes) -> list[WatchedParameter]:
    return [WatchedParameter(name, tuple(shape), dtype, holder) for name, shape, dtype, holder in json.loads(text)]
