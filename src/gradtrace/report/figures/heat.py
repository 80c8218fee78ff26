"""How does a number become the colour of a cell? Cividis over the decades, and three colours for what has none.

(J. Nunez, C. Anderton and R. Renslow, 2018: the same to any eye, and lighter means more in print without colour.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.report.figures.palette import BROKEN, MISSING, SOFT, ZERO
from gradtrace.report.figures.paper import labelled_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MOST_TICKS = 6


def heat_colours(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """[rows, columns, 3]: log10 of `values` from `low` to `high`; NaN is missing, an infinity broken, a zero black."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    with np.errstate(divide="ignore", invalid="ignore"):
        share = (np.log10(np.asarray(values, np.float64)) - low) / max(high - low, 1e-12)
    colours = np.array(colormaps["cividis"](np.clip(np.nan_to_num(share), 0, 1)))[..., :3]
    for where, colour in ((np.isnan(values), MISSING), (np.isinf(values), BROKEN), (values == 0, ZERO)):
        colours[where] = to_rgb(colour)
    return colours


def colour_bar(axes: Axes, low: float, high: float, label: str) -> None:
    """The colours with their decades, beside `axes`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = axes.get_figure()
    assert figure is not None
    mappable = ScalarMappable(Normalize(low, high), "cividis")
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=30, fraction=0.05)
    places, words = labelled_ticks(low, high, MOST_TICKS)
    bar.set_ticks(places, labels=words)
    bar.set_label(label)
    bar.outline.set(edgecolor=SOFT, linewidth=0.6)
