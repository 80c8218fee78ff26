"""What a layer is called on the page, and which row shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report.samples import chain

from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.exhibit import UpdateStats
from gradtrace.records.trace import Op, Site, Trace
from gradtrace.report.html.activations import activations, name_of
from gradtrace.report.html.places import Place, Places
from gradtrace.report.html.waterfall import waterfall


def numbered(num_layers: int) -> Trace:
    """Layers 0, 2, 4, ... of a Sequential, their activations 1, 3, 5, ... as modules of their own."""

    def moved(op: Op) -> Op:
        if op.site.module is None:
            return op
        own = op.activation is not None
        place = str(2 * int(op.site.module) + (1 if own else 0))
        site = replace(op.site, module=place, module_type="Sigmoid" if own else "Linear")
        return replace(op, site=site, weights=tuple(f"{place}.weight" for _ in op.weights))

    trace = chain(num_layers, 0.2, 0.5, "sigmoid", name="{}")
    parameters = tuple(replace(p, name=f"{2 * int(p.name.partition('.')[0])}.weight") for p in trace.parameters)
    return replace(trace, ops=tuple(map(moved, trace.ops)), parameters=parameters)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("2", Place("model[2] (Linear)", "2")),
        ("3", Place("model[3] (Sigmoid)", "2")),  # no row of its own
        ("2.weight", Place("model[2].weight", "2")),
        ("head", Place("head", "head")),
        ("", Place("the model", "")),
    ],
)
def test_a_layer_has_a_name_and_a_row(path: str, place: Place) -> None:
    assert Places(numbered(3)).place(path) == place


def test_the_rows_and_the_answer_name_class_and_shape() -> None:
    section = waterfall(numbered(3))
    assert section is not None
    assert section.answer.startswith("From the loss to model[0] (Linear) the gradient changes by ")
    (plot,) = section.plots
    assert plot.data["rows"]["name"] == ["loss", "4", "2", "0"]
    assert plot.data["rows"]["kind"] == ["", "Linear 32x32", "Linear 32x32", "Linear 32x32"]
    assert [row[0] for row in plot.table.rows] == ["loss", "4 Linear 32x32", "2 Linear 32x32", "0 Linear 32x32"]


def test_the_update_stands_beside_the_gradient_where_it_is_known() -> None:
    (plot,) = waterfall(numbered(2)).plots  # type: ignore[union-attr]
    assert plot.table.columns[-2:] == ("|grad| / |W|", "update / |W|")
    assert [row[-2:] for row in plot.table.rows] == [("", ""), ("0.0152", ""), ("1.6e-03", "")]
    known = UpdateStats("0.weight", (32, 32), weight_norm=3.3, update_norm=0.033, unchanged_frac=0.0)
    (plot,) = waterfall(numbered(2), updates=(known,)).plots  # type: ignore[union-attr]
    assert [row[-1] for row in plot.table.rows] == ["", "", "0.01"]


def test_an_activation_is_named_by_its_class_or_by_what_it_follows() -> None:
    def told(trace: Trace) -> list[str]:
        return [name_of(op, Paths(trace), Names(trace)) for op in trace.ops if op.activation is not None]

    assert told(numbered(2)) == ["3 Sigmoid", "1 Sigmoid"]
    in_the_root = [replace(op, site=Site("", "Net")) if op.activation else op for op in chain(2, 0.2, 0.5, "relu").ops]
    assert told(replace(chain(2, 0.2, 0.5, "relu"), ops=tuple(in_the_root))) == [
        "relu behind layers.1",
        "relu behind layers.0",
    ]
    section = activations(numbered(2))
    assert section is not None
    assert section.answer == "2 activations. None is saturated. No unit is dead."
