"""No module needs itself: what is imported, at once or late, goes one way."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_there_is_no_circle_of_imports():
    graph = grimp.build_graph("gradtrace", exclude_type_checking_imports=True)
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_records_do_not_name_report_even_for_types():
    graph = grimp.build_graph("gradtrace")
    below = graph.find_descendants("gradtrace.records")
    named = {(module, other) for module in below for other in graph.find_modules_directly_imported_by(module)}
    assert [pair for pair in named if pair[1].startswith("gradtrace.report")] == []
