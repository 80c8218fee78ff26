"""A record as one table for pandas or polars: columns by name, made without either, put together by the one asked for.

diagnosis   a line a finding
trace       a line a gradient that an op passes on (or an op, where it passes none on)
run         a line a row of the run and parameter, as `gradtrace export` writes it
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.trace import Trace
from gradtrace.runs.export import blocks, columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, TensorStats

Columns = dict[str, Any]
"""Name -> values, all equally many."""


def to_pandas(record: Diagnosis | Trace | Run) -> Any:
    """A ``pandas.DataFrame``; raises `InputError` where pandas is not installed."""
    return _needed("pandas").DataFrame(table(record))


def to_polars(record: Diagnosis | Trace | Run) -> Any:
    """A ``polars.DataFrame``; raises `InputError` where polars is not installed."""
    return _needed("polars").DataFrame(table(record))


def table(record: Diagnosis | Trace | Run) -> Columns:
    """The columns."""
    if isinstance(record, Diagnosis):
        return _in_columns(FINDING, map(_finding, record.findings))
    if isinstance(record, Trace):
        return _in_columns(PASSED, (line for op in record.ops for line in _passed(op)))
    found = list(blocks(record))
    return {name: np.concatenate([block[name] for block in found]) if found else [] for name in columns()}


FINDING = ("code", "symptom", "cause", "severity", "where", "step", "source", "message")
PASSED = (
    "op", "name", "function", "factor", "module", "module_type", "call", "source", "received_norm", "received_rms",
    "zero_frac", "nonfinite_frac", "input", "to", "passed_norm", "gain_decades", "share",
)  # fmt: skip


def _finding(finding: Finding) -> Sequence[Any]:
    places = ", ".join(path or "model" for path in finding.where)
    kinds = finding.code, finding.symptom.value, finding.cause.value, finding.severity.value
    return *kinds, places, finding.step, finding.source, finding.message


def _passed(op: Op) -> Iterator[Sequence[Any]]:
    site, got = op.site, op.received
    head = op.index, op.name, op.function, op.factor.value, site.module, site.module_type, site.call, site.source
    norms = (got.norm, got.rms, got.zero_frac, got.nonfinite_frac) if got is not None else (None,) * 4
    edges = [(i, passed) for i, passed in enumerate(op.passed) if passed is not None]
    for i, passed in edges:
        yield *head, *norms, *_edge(op, i, passed)
    if not edges:
        yield *head, *norms, None, None, None, None, None


def _edge(op: Op, i: int, passed: TensorStats) -> Sequence[Any]:
    target, gain = op.targets[i], op.gain(i)
    decades = math.log10(gain) if 0.0 < gain < math.inf else None
    return i, target[0] if target is not None else None, passed.norm, decades, op.shares[i]


def _in_columns(names: Sequence[str], lines: Iterator[Sequence[Any]]) -> Columns:
    found = list(lines)
    return {name: [line[i] for line in found] for i, name in enumerate(names)}


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(f"a {package} table needs {package}: pip install {package}") from error
