"""How does a record show itself? It names what it wants; who draws it is looked up late, in one table.

Records know nothing of what draws them: ``trace.plot()`` asks `rendered` for the entry of its class, and only then is
the module imported. (import-linter sees no import here, because there is none.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

Columns = Literal[1, 2]
"""Of a paper."""

_EVERY = {
    "show": "gradtrace.report.showing:show",
    "text": "gradtrace.report.showing:to_text",
    "html": "gradtrace.report.notebook:to_html",
    "report": "gradtrace.report.showing:write",
    "save": "gradtrace.records.storage:save",
}

_TABLES = {"pandas": "gradtrace.report.frames:to_pandas", "polars": "gradtrace.report.frames:to_polars"}

RENDERERS: dict[str, dict[str, str]] = {
    "Diagnosis": _EVERY
    | _TABLES
    | {"plot": "gradtrace.report.figures:plot_diagnosis", "json": "gradtrace.records.storage:to_json"},
    "Trace": _EVERY | _TABLES | {"plot": "gradtrace.report.figures:plot_waterfall"},
    "Run": _EVERY | _TABLES | {"plot": "gradtrace.report.figures:plot_run"},
    "ThroughTime": _EVERY
    | {"plot": "gradtrace.report.figures:plot_through_time", "json": "gradtrace.records.storage:document"},
    "Repair": _EVERY
    | {
        "plot": "gradtrace.report.figures:plot_repair",
        "json": "gradtrace.records.storage:repair_to_json",
    },
    "Trial": {"apply": "gradtrace.repair.applying:applied"},
    "Prediction": _EVERY
    | {"diagram": "gradtrace.report.phases:diagram_text", "json": "gradtrace.records.storage:prediction_json"},
    "Initialisation": {
        "text": "gradtrace.report.prediction:initialisation_text",
        "html": "gradtrace.report.notebook:initialisation_html",
    },
    "LyapunovSpectrum": {"html": "gradtrace.report.notebook:spectrum_html"},
}
"""Class -> what is wanted -> ``module:function``, called with the record first."""


def rendered(record: object, what: str, *args: Any, **options: Any) -> Any:
    """What the renderer makes of `record`."""
    module, _, function = RENDERERS[type(record).__name__][what].partition(":")
    return getattr(import_module(module), function)(record, *args, **options)


class Shown:
    """What a reader is handed: one line as ``repr``, the picture as ``str`` and in a notebook, a page on demand."""

    __slots__ = ()

    def show(self, console: Console | None = None) -> None:
        """Print the picture and the findings to the terminal (or to a given rich console)."""
        rendered(self, "show", console)

    def report(self, path: str | Path) -> None:
        """Write the report to `path`: one HTML file that needs no network.

        Raises:
            TraceFileError: the file cannot be written.
        """
        rendered(self, "report", path)

    def __str__(self) -> str:
        return str(rendered(self, "text"))

    def _repr_html_(self) -> str:
        return str(rendered(self, "html"))


class Tabular:
    """What is a table as well."""

    __slots__ = ()

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of all there is.

        Of a diagnosis a line a finding, of a trace a line a gradient that an op passes on, of a run a line a row of
        steps and parameter.

        Raises:
            InputError: pandas is not installed.
        """
        return rendered(self, "pandas")

    def to_polars(self) -> Any:
        """The same as a ``polars.DataFrame``.

        Raises:
            InputError: polars is not installed.
        """
        return rendered(self, "polars")


class Kept(Shown):
    """What can be saved as well."""

    __slots__ = ()

    def save(self, path: str | Path) -> None:
        """Write it as gzipped JSON; read it back with `gradtrace.load`, draw it with ``gradtrace show``.

        Raises:
            TraceFileError: the file cannot be written.
        """
        rendered(self, "save", path)


def counted(number: int, noun: str) -> str:
    """``1 op``, ``1,200 ops``.

    >>> counted(1, "trace"), counted(6, "trace")
    ('1 trace', '6 traces')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def loss_told(value: float) -> str:
    """A loss in a sentence.

    >>> loss_told(float("nan")), loss_told(float("-inf")), loss_told(4.16381)
    ('NaN', '-Inf', '4.164')
    """
    return f"{value:.4g}".replace("nan", "NaN").replace("inf", "Inf")
