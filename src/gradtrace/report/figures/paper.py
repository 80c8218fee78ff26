"""What do all figures share? Widths of one and two columns, small type, embedded fonts, names that show as they are."""

from __future__ import annotations

import io
import math
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from gradtrace.errors import InputError
from gradtrace.report.figures.palette import FAINT, INK, SOFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.shown import Columns

WIDTHS_IN: dict[int, float] = {1: 3.5, 2: 7.2}
"""[inches] One and two columns of a journal (IEEE 3.5 and 7.16; Nature 89 and 183 mm)."""

LOOK: Any = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
    "text.parse_math": False,  # a module named a_$x$ shows as that
}
"""Families of type are the reader's own (`font.family`); all else is the same everywhere."""

EMBEDDED: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "savefig.dpi": 300}
"""Fonts as TrueType, which publishers demand, not as matplotlib's Type 3; heat maps in PDFs at 300 dots per inch."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_figure(columns: Columns, height_in: float) -> Figure:
    """An empty figure of that many columns.

    Raises:
        InputError: matplotlib is not installed, or `columns` is neither 1 nor 2.
    """
    if columns not in WIDTHS_IN:
        raise InputError(f"columns is 1 or 2, the width of the figure on a page; it is {columns!r}")
    make, _ = _matplotlib()
    return make(figsize=(WIDTHS_IN[columns], height_in), layout="constrained")


def looking() -> Any:
    """A context in which texts and axes are made: our sizes, and no mathematics in names."""
    _, rc_context = _matplotlib()
    return rc_context(LOOK)


@cache
def _matplotlib() -> tuple[type[Figure], Callable[..., Any]]:
    """The class of our figures and `rc_context`."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install '.[figures]' (or matplotlib)") from error

    class PaperFigure(Figure):
        """Saves with embedded fonts whatever the reader's rcParams say, and shows itself in a notebook."""

        def savefig(self, *args: Any, **kwargs: Any) -> None:
            with rc_context(EMBEDDED):
                super().savefig(*args, **kwargs)

        def _repr_png_(self) -> bytes:
            with io.BytesIO() as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a glyph that the font lacks is no news in a notebook
                self.savefig(file, format="png", dpi=144, bbox_inches="tight")
                return file.getvalue()

    return PaperFigure, rc_context


def power_of_ten(exponent: float) -> str:
    """Without mathtext, which names would be parsed by too.

    >>> power_of_ten(-12), power_of_ten(0)
    ('10⁻¹²', '1')
    """
    return "1" if exponent == 0 else "10" + str(int(exponent)).translate(_SUPERSCRIPTS)


def decade_ticks(low: float, high: float, most: int) -> list[int]:
    """Whole decades from `low` to `high`, at most about `most` of them, zero among them where it lies between.

    >>> decade_ticks(-19.2, 1.0, 6)
    [-15, -10, -5, 0]
    """
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if (high - low) / step <= most)
    first = -int(-low // step) * step if low < 0 else int(-(-low // step)) * step
    return [tick for tick in range(first, int(high) + 1, step) if low <= tick <= high]


def label_decades(axes: Axes, axis: Literal["x", "y"], most: int) -> None:
    """Ticks of an axis whose numbers are log10."""
    low, high = sorted(axes.get_xlim() if axis == "x" else axes.get_ylim())
    places, words = labelled_ticks(low, high, most)
    (axes.set_xticks if axis == "x" else axes.set_yticks)(places, words)
    axes.tick_params(axis=axis, labelsize=LOOK[f"{axis}tick.labelsize"])


def labelled_ticks(low: float, high: float, most: int) -> tuple[list[float], list[str]]:
    """At whole decades where there are two of them, else at 1, 2 and 5 times those, else at even places.

    >>> labelled_ticks(-3.2, 0.1, 6)
    ([-3, -2, -1, 0], ['10⁻³', '10⁻²', '10⁻¹', '1'])
    >>> labelled_ticks(-0.1, 0.8, 6)[1]
    ['1', '2', '5']
    """
    whole: list[float] = [*decade_ticks(low, high, most)]
    if len(whole) > 1:
        return whole, [power_of_ten(tick) for tick in whole]
    between = [e + math.log10(digit) for e in range(math.floor(low), math.ceil(high)) for digit in (1, 2, 5)]
    ticks = [tick for tick in between if low <= tick <= high]
    if len(ticks) < 2:
        ticks = [low + (high - low) * place / 4 for place in ((1, 2, 3) if high > low else (0,))]
    return ticks, [f"{10**tick:.3g}" for tick in ticks]


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """One name for each row, from the top; in the reader's own axes too it shows as it is."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=LOOK["ytick.labelsize"])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
        text.set_usetex(False)
