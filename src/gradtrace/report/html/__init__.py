"""The report that people look at: one HTML file, offline, in the order in which a reader asks.

    records -> sections (sentences, tables, numbers for the plots) -> page.html.j2 -> one file

Every section is a function from records to a `Section`; what comes from the model or the run is escaped by jinja2 in
the page and by `as_json` in the numbers. Drawn by d3 and d3-sankey (`static/vendor`, ISC and BSD-3-Clause) and by the
scripts beside them.
"""

from gradtrace.report.html.page import render, write_report

__all__ = ["render", "write_report"]
