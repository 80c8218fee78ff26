"""What are the entries of gradients like, where several ranks train together?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.report.html.activations import spread
from gradtrace.report.html.pooling import edges, pooled, run_map
from gradtrace.report.html.section import Plot, Table
from gradtrace.report.words import clean, short

if TYPE_CHECKING:
    from gradtrace.records.run import Run

MOST_ROWS, TABLE_ROWS = 1000, 1000


def entries(run: Run) -> Plot | None:
    """Parameter by step; None where nobody looked."""
    known = run.entries
    if known is None or np.isnan(known.largest).all():
        return None
    rows, columns = edges(known.largest.shape[1], MOST_ROWS), np.arange(len(known.steps) + 1)
    largest, smallest = (pooled(known.largest.T, rows, columns, largest=side) for side in (True, False))
    names = [clean(parameter.name) for parameter in run.header.parameters]
    end = int(run.steps.first[-1] + run.steps.count[-1] - 1) if len(run.steps.first) else 0
    last = np.append(known.steps[1:] - 1, max(end, int(known.steps[-1])))
    data = run_map("largest entry", [names[a] for a in rows[:-1].tolist()], known.steps, last, largest, smallest)
    reading = (
        "A row is a parameter, a column a step at which updates were measured: the largest entry of its gradient on "
        "all ranks together, as the optimizer saw it. The table has the fractions that are zero and not finite."
    )
    cells = []
    for i in spread(known.largest.shape[1], TABLE_ROWS):
        numbers = (known.largest[-1, i], known.zero_frac[-1, i], known.nonfinite_frac[-1, i])
        cells.append((names[i], *(short(float(number)) for number in numbers)))
    heads = (f"parameter, at step {int(known.steps[-1])}", "largest entry", "fraction zero", "fraction not finite")
    return Plot(
        "rankentries", "runmap", "Largest gradient entry by depth and step", reading, data, Table(heads, tuple(cells))
    )
