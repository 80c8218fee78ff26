"""What is a layer called on the page, and which row of the waterfall shows it?

A row holds a layer's weights and what follows them up to the next layer, so that an activation named by a finding
is in the row of the weights below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.measure.ledger import ledger
from gradtrace.measure.names import Names
from gradtrace.records.parameter_name import module_in
from gradtrace.report.words import clean

if TYPE_CHECKING:
    from gradtrace.measure.ledger import LedgerRow
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class Place:
    """A layer that a finding names."""

    name: str
    """``model[39] (Sigmoid)``."""
    row: str
    """Path of its row; its own path where the waterfall does not pass through it."""


class Places:
    """The names and rows of one trace; of no trace, paths alone."""

    def __init__(self, trace: Trace | None) -> None:
        self._names = Names() if trace is None else Names(trace)
        self._rows: dict[str, str] = {}
        for row in () if trace is None else ledger(trace):
            modules = [trace.ops[i].site.module for i in row.ops] if trace is not None else []
            for module in (row.module, *modules, *map(module_in, row.parameters)):
                self._rows.setdefault(module or "", row.module)

    def told(self, path: str) -> str:
        """``model[38] (Linear)``, in a sentence."""
        return clean(self._names.told(path))

    def kind(self, row: LedgerRow) -> str:
        """``Linear 32x32``, beside the path; '' where it is not known."""
        whole, *_, path = self._names.labels(row.module, row.parameters)
        return clean(whole.removeprefix(path).strip())

    def place(self, path: str) -> Place:
        """Of a module, or of a parameter by its module."""
        module = path
        while module not in self._rows and module:
            module = module.rpartition(".")[0]
        return Place(self.told(path), clean(self._rows.get(module, path) if module else path))
