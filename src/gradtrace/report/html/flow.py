"""The third question: by which ways does the gradient come, the skip or the branch, query, key or value?"""

from __future__ import annotations

import math
import re
from itertools import takewhile
from statistics import median
from typing import TYPE_CHECKING

from gradtrace.measure.ledger import ledger
from gradtrace.measure.names import expression
from gradtrace.measure.path import Paths, decades_between, norm_of
from gradtrace.records.vocabulary import Factor
from gradtrace.report.html.folding import Drawn, fold
from gradtrace.report.html.meetings import named
from gradtrace.report.html.phrases import FACTORS
from gradtrace.report.html.places import Places
from gradtrace.report.html.roles import ROLES, fused_heads
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.html.ways import Way, Ways, ways
from gradtrace.report.words import clean, decades, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.trace import Op, Trace

MOST_BLOCKS = 16
"""Blocks between two waists that are drawn; more are folded, those that look alike first."""
MOST_STRETCHES = 72
"""With more than this, modules are joined to blocks, and blocks to stretches without a branch."""
MOST_DRAWN = 200
"""Where even that leaves more, those that carry the most are drawn."""


def flow(trace: Trace) -> Section | None:
    """The ways of the gradient to the earliest layer; None where no gradient reached a layer."""
    paths = Paths(trace)
    book = ledger(trace, paths)
    if not book:
        return None
    graph, drawn, found = _drawable(paths, book[-1].ops[-1])
    found = named(found)
    operands = {way.target: way.role for way in found if way.role in ROLES}
    labels = [_label(trace.ops, graph, each, operands.get(i, "")) for i, each in enumerate(drawn)]
    nodes = [_node(trace.ops, graph, each, label) for each, label in zip(drawn, labels, strict=True)]
    data = {
        "nodes": nodes,
        "looks": _looks(nodes),
        "chosen": _chosen(graph, drawn),
        "links": [
            [way.source, way.target, way.carried, way.share, way.cosine, way.norm, way.total, way.role] for way in found
        ],
    }
    target, short_name = Places(trace).told(book[-1].module), clean(expression(book[-1].module))
    folded = "" if _meetings(graph) else "Show the chain"
    plot = Plot("flow", "flow", "Flow", _reading(short_name), data, _table(labels, found, drawn), folded)
    return Section("flow", "Which ways it takes", _answer(graph, target), (plot,), _notes(paths, graph, drawn))


def _drawable(paths: Paths, target: int) -> tuple[Ways, list[Drawn], list[Way]]:
    """The finest picture that is not too large."""
    name_of: Callable[[Op], str]
    for name_of in (_module, _block, lambda op: ""):
        graph = ways(paths, target, name_of)
        drawn, found = fold(graph, MOST_BLOCKS)
        if len(drawn) <= MOST_STRETCHES:
            return graph, drawn, found
    return graph, *_largest(graph, drawn, found)


def _largest(graph: Ways, drawn: list[Drawn], found: list[Way]) -> tuple[list[Drawn], list[Way]]:
    if len(drawn) <= MOST_DRAWN:
        return drawn, found
    size = [graph.stretches[each.stretches[0]].carried for each in drawn]
    kept = sorted(sorted(range(len(drawn)), key=lambda i: -size[i])[:MOST_DRAWN])
    place = {old: new for new, old in enumerate(kept)}
    inner = [way for way in found if way.source in place and way.target in place]
    return [drawn[i] for i in kept], [_moved(way, place[way.source], place[way.target]) for way in inner]


def _moved(way: Way, source: int, target: int) -> Way:
    return Way(source, target, way.carried, way.share, way.norm, way.total, way.role)


def _module(op: Op) -> str:
    return "loss" if op.site.module is None else op.site.module


def _block(op: Op) -> str:
    """``blocks.3`` of ``blocks.3.attn.out_proj``."""
    match = re.match(r"(?:.*?\.)??\d+(?=\.|$)", _module(op))
    return match.group() if match else _module(op).partition(".")[0]


# ---------------------------------------------------------------------------------------------------------- the words


def _label(ops: Sequence[Op], graph: Ways, each: Drawn, operand: str) -> str:
    first = _stretch_label(ops, graph.stretches[each.stretches[0]].ops, operand)
    return first if len(each.stretches) == 1 else f"{first} ×{len(each.stretches)}"


def _stretch_label(ops: Sequence[Op], indices: Sequence[int], operand: str) -> str:
    """Its layers, ``499.fc2 … fc1``; without any its module and what it does there, ``499.attn · query``."""
    layers = [clean(_module(ops[i])) for i in indices if ops[i].weights]
    names = layers or [clean(_module(ops[i])) for i in indices]
    first, last = names[0].split("."), names[-1].split(".")
    if first == last:
        does = operand or ("" if layers else _does(ops, indices))
        return f"{names[0] or 'model'} · {does}" if does else names[0] or "model"
    num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return f"{names[0] or 'model'} … {'.'.join(last[num_shared:]) or names[-1] or 'model'}"


def _does(ops: Sequence[Op], indices: Sequence[int]) -> str:
    """The function that says most; '' for the loss, and for one that is the whole module."""
    weightiest = max(indices, key=lambda i: _weight(ops[i]))
    name = clean(_function(ops[weightiest])).strip("_")
    return "" if ops[weightiest].site.module is None or name.endswith("_forward") else name


def _function(op: Op) -> str:
    return op.function or op.name.removesuffix("Backward0")


def _weight(op: Op) -> int:
    """What an op counts for the look of its stretch, and in its name."""
    return 8 if op.weights else 4 if op.factor in _TELLING or "softmax" in op.function else 1


_TELLING = (Factor.ACTIVATION, Factor.NORM, Factor.ATTENTION, Factor.LOSS)


def _node(ops: Sequence[Op], graph: Ways, each: Drawn, label: str) -> list[object]:
    stretch = graph.stretches[each.stretches[0]]
    first, last = ops[stretch.ops[0]], ops[stretch.ops[-1]]
    inside = decades_between(norm_of(first), norm_of(last))
    source = next((ops[i].site.source for i in stretch.ops if ops[i].site.source), "")
    sizes: dict[str, int] = {}
    for i in stretch.ops:
        sizes[ops[i].factor.value] = sizes.get(ops[i].factor.value, 0) + _weight(ops[i])
    look = max(sizes, key=lambda name: sizes[name])
    functions = list(dict.fromkeys(_function(ops[i]) for i in stretch.ops))
    told = ", ".join(functions[:6]) + (" ..." if len(functions) > 6 else "")
    return [label, look, len(each.stretches), stretch.carried, norm_of(first), inside, source, told]


def _looks(nodes: Sequence[Sequence[object]]) -> list[list[str]]:
    """For the legend: each colour that occurs and its words; what is grey shares one."""
    found = [factor for factor in Factor if any(node[1] == factor.value for node in nodes)]
    plain = [factor for factor in found if factor in _GREY]
    coloured = [[factor.value, FACTORS[factor]] for factor in found if factor not in _GREY]
    return coloured + ([[plain[0].value, ", ".join(FACTORS[factor] for factor in plain)]] if plain else [])


_GREY = (Factor.RESHAPE, Factor.LOSS, Factor.OTHER)


def _chosen(graph: Ways, drawn: Sequence[Drawn]) -> list[int]:
    """Per drawn stretch, the one before it on its critical path; -1 at the start."""
    place = {i: k for k, each in enumerate(drawn) for i in each.stretches}
    found = []
    for each in drawn:
        chosen = graph.stretches[each.stretches[0]].chosen
        found.append(-1 if chosen is None else place.get(chosen, -1))
    return found


def _meetings(graph: Ways) -> list[float]:
    """The largest share at each place where several ways meet."""
    arriving: dict[int, list[float]] = {}
    for way in graph.ways:
        arriving.setdefault(way.target, []).append(way.share)
    return [max(s for s in shares if not math.isnan(s)) for shares in arriving.values()
            if len(shares) > 1 and not all(map(math.isnan, shares))]  # fmt: skip


def _answer(graph: Ways, target: str) -> str:
    meetings = _meetings(graph)
    if not meetings:
        return f"All of the gradient of {target} comes by one way: no skip connections and no branches lead to it."
    where = "one place" if len(meetings) == 1 else f"{len(meetings):,} places"
    strongest = f"there the strongest way brings {median(meetings):.0%}"
    return f"On its way to {target}, gradients meet and are summed at {where}; {strongest} of the sum (median)."


def _reading(target: str) -> str:
    return (
        f"The loss on top, {target} at the bottom. The width of a way is the fraction of {target}'s gradient that came "
        "by it: past a branch (a skip), through it, by query, key or value of attention. Click on a box to mark its "
        "critical path, the way that brings the most."
    )


def _notes(paths: Paths, graph: Ways, drawn: Sequence[Drawn]) -> tuple[str, ...]:
    notes = []
    if heads := fused_heads(paths.ops):
        name, count = next(iter(heads.items()))
        more = f", and {len(heads) - 1} more" if len(heads) > 1 else ""
        held = f"{clean(name) or 'the model'}: {count} heads{more}"
        notes.append(f"Heads are not drawn apart where one tensor holds them all ({held}): the trace has one norm of "
                     "it. Heads that are modules have ways of their own.")  # fmt: skip
    if _meetings(graph) and (most := max(len(each.stretches) for each in drawn)) > 1:
        notes.append(f"Blocks of one shape are folded, up to {most} into one; their shares are means.")
    if graph.num_left_out:
        notes.append(f"Not drawn: {graph.num_left_out:,} ways that carry next to nothing.")
    return tuple(notes)


def _table(labels: Sequence[str], found: Sequence[Way], drawn: Sequence[Drawn]) -> Table:
    columns = ("from", "to", "as", "alike", "carries", "share", "cos", "|this way|", "|sum|", "decades")
    return Table(
        columns,
        tuple(
            (
                labels[way.source],
                labels[way.target],
                way.role,
                str(len(drawn[way.target].stretches)),
                f"{way.carried:.2%}",
                f"{way.share:.3g}",
                f"{way.cosine:.3f}",
                short(way.norm),
                short(way.total),
                decades(decades_between(way.norm, way.total)),
            )
            for way in found
        ),
    )
