"""Pictures for papers: matplotlib figures with vector output, sized for one or two columns.

    records -> neutral tables (`report.tables`, `html.pooling`) -> a `matplotlib.figure.Figure`

No figure goes through pyplot: nothing is registered, opened or left behind, and the reader's rcParams stay as they are.
matplotlib is an optional extra (``pip install '.[figures]'``) and is imported when the first figure is made.
"""

from gradtrace.report.figures.repair import plot_repair
from gradtrace.report.figures.run import plot_run
from gradtrace.report.figures.through_time import plot_through_time
from gradtrace.report.figures.waterfall import plot_diagnosis, plot_waterfall

__all__ = ["plot_diagnosis", "plot_repair", "plot_run", "plot_through_time", "plot_waterfall"]
