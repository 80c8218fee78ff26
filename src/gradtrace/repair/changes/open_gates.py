"""Which gates of a recurrence written by hand keep its state, and what bias lets them keep it as long as the sequence?

In c = f c' + i g the gradient goes on to c' times f = sigmoid(z): where z is the output of a layer, or one of the equal
parts that it is split into, that part of the layer's bias opens the gate: b = ln u with u ~ U(1, T - 1) keeps from 1 to
T steps, as of `nn.LSTM` (Tallec & Ollivier 2018, equation 16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.gate import behind_views, gates_take_most, is_gated
from gradtrace.records.change import Change, Draw
from gradtrace.repair.changes.draws import code_of
from gradtrace.repair.changes.recurrent_draws import OPEN

if TYPE_CHECKING:
    from gradtrace.records.trace import Op, Trace
    from gradtrace.repair.situation import Situation

_GATES = {"sigmoid", "hardsigmoid"}


def opened(situation: Situation, horizon: float) -> list[Change]:
    """One change for every gate that keeps a state, where products with gates take most of what is lost."""
    if not gates_take_most(situation.trace, situation.paths):
        return []
    biases = {name for name, value in situation.model.named_parameters() if value.dim() == 1}
    return [_open(name, rows, horizon) for name, rows in dict.fromkeys(_kept(situation.trace, biases))]


def _kept(trace: Trace, biases: set[str]) -> list[tuple[str, tuple[int, int]]]:
    """(bias, its entries) of each gate whose product takes a sum: what was kept, and what has come to it."""
    found = []
    for product in trace.ops:
        if not is_gated(product, trace):
            continue
        sides = [behind_views(trace.ops[target[0]], trace) for target in product.targets if target is not None]
        gates = [op for op in sides if op.activation is not None and op.activation.function in _GATES]
        if len(gates) == 1 and any(op.activation is None and op.name.startswith("Add") for op in sides):
            found += [gate for gate in [_bias_of(gates[0], trace, biases)] if gate is not None]
    return found


def _bias_of(gate: Op, trace: Trace, biases: set[str]) -> tuple[str, tuple[int, int]] | None:
    """The entries that are added to a gate's operand; None where it is no part of a layer's output, in equal parts."""
    target = gate.targets[0]
    while target is not None and not (layer := trace.ops[target[0]]).weights:
        ahead = [way for way in layer.targets if way is not None]
        if len(ahead) != 1 or not layer.name.startswith(("Split", "Chunk", "Unsafe", "View", "Reshape")):
            return None
        part, target = target[1], ahead[0]
    if target is None or gate.received is None or layer.received is None:
        return None
    (size, whole), own = (stats.shape[-1] for stats in (gate.received, layer.received)), biases & set(layer.weights)
    first = part * size if whole > size else 0
    return (min(own), (first, first + size)) if len(own) == 1 and first + size <= whole else None


def _open(name: str, rows: tuple[int, int], horizon: float) -> Change:
    draws = (Draw(name, OPEN, max(horizon, 3.0), rows=rows),)
    return Change(
        kind="recurrence",
        title=f"Let the gate of {name}[{rows[0]}:{rows[1]}] stay open for up to {horizon:.0f} steps (chrono bias).",
        where=(name,),
        reason="what a gate keeps at each step, it passes back at each step",
        words=(("what", "draw"),),
        draws=draws,
        code=code_of(draws),
        source="Tallec & Ollivier 2018",
        loses_weights=True,
    )
