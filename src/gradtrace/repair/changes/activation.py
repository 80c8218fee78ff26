"""Another activation, with the initialisation that it needs; the output's own non-linearity stays, and gates do.

Glorot et al. (2011) for ReLU; Maas et al. (2013) for leaky ReLU; Hendrycks & Gimpel (2016) for GELU; Klambauer et al.
(2017) for SELU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from gradtrace.diagnosis.attribution import is_bounded, is_flat
from gradtrace.diagnosis.gate import multiplies, site_of
from gradtrace.errors import InputError
from gradtrace.records.change import Change, Draw, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.repair.changes.draws import code_of, critical_draws, draw_all, listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

MODULES: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU, "LeakyReLU": nn.LeakyReLU, "GELU": nn.GELU, "SELU": nn.SELU, "SiLU": nn.SiLU, "Tanh": nn.Tanh,
}  # fmt: skip
"""What an activation may become."""

FUNCTIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "ReLU": ("torch.nn.functional.relu", F.relu),
    "LeakyReLU": ("torch.nn.functional.leaky_relu", F.leaky_relu),
    "GELU": ("torch.nn.functional.gelu", F.gelu),
    "SELU": ("torch.nn.functional.selu", F.selu),
    "SiLU": ("torch.nn.functional.silu", F.silu),
    "Tanh": ("torch.tanh", torch.tanh),
}
"""The same as functions."""

SOURCES = {"ReLU": "Glorot et al. 2011", "LeakyReLU": "Maas et al. 2013", "GELU": "Hendrycks & Gimpel 2016",
           "SELU": "Klambauer et al. 2017", "SiLU": "Elfwing et al. 2018", "Tanh": "LeCun et al. 1998"}  # fmt: skip

SQUASHING = set(
    "sigmoid tanh hardtanh hardsigmoid softsign softmax softmin exp logsigmoid relu6 clamp atan erf".split()
)
"""Bounded, or with a derivative that is: replaced by what is neither."""
ONE_SIDED = set("relu threshold hardswish hardshrink softshrink".split())
"""Silent on one side: replaced by what lets something through."""

_CAUSES = {
    Cause.ACTIVATION_DERIVATIVE,
    Cause.SATURATED_PREACTIVATION,
    Cause.RECURRENT_CONTRACTION,
    Cause.INPUT_SCALE,
}
NEXT = {True: ("LeakyReLU", "GELU"), False: ("ReLU", "GELU", "SELU")}
"""By whether it is one-sided: what it may become, the usual first."""


def propose(situation: Situation) -> list[Change]:
    """Bounded or flat activations become ReLU, GELU, SELU; dead ReLUs leaky; each drawn for what it has become."""
    if not _CAUSES & set(situation.causes):
        return []
    found = []
    dead = situation.has(Symptom.DEAD_UNITS)
    ops = [op for op in _without_gates(situation) if _is_guilty(op, dead=dead)]
    functions = dict.fromkeys(op.activation.function for op in ops if op.activation)
    for function in functions:
        alike = [op for op in ops if op.activation and op.activation.function == function]
        for target in NEXT[function in ONE_SIDED]:
            try:
                found.append(_change(situation, alike, function, target))
            except InputError:
                continue
    return found


def _without_gates(situation: Situation) -> list[Op]:
    """What multiplies another value is a gate or what it lets through: how much of that is kept, or a cell's state.

    Another function there is another cell. A module, or a line, that is a gate in one of its calls is one.
    """
    ops = situation.activations()
    gates = {site_of(op) for op in ops if multiplies(op, situation.paths)}
    modules = {op.site.module for op in ops if site_of(op) in gates and _is_of_torch(op, situation.model)}
    return [op for op in ops if site_of(op) not in gates and op.site.module not in modules]


def _is_of_torch(op: Op, model: nn.Module) -> bool:
    """Whether a module of torch's is what is swapped there, with all of its calls."""
    return type(model.get_submodule(op.site.module or "")).__module__.startswith("torch.nn")


def _is_guilty(op: Op, *, dead: bool) -> bool:
    assert op.activation is not None
    function = op.activation.function
    return (function in SQUASHING and (is_bounded(op) or is_flat(op) or op.activation.derivative_rms < 1.0)) or (
        dead and function in ONE_SIDED
    )


def _change(situation: Situation, ops: list[Op], function: str, target: str) -> Change:
    modules, edits = _sites(situation.model, ops, target)
    change = Change(
        kind="activation",
        title=f"Replace {function} by {target}, and draw the weights for it.",
        where=(*modules, *(edit.source for edit in edits if edit.source)),
        reason=_reason(ops, function),
        predicted_decades=-situation.deficit if situation.deficit and math.isfinite(situation.deficit) else None,
        words=(("function", function), ("target", target)),
        edits=edits,
        source=SOURCES[target],
        loses_weights=True,
    )
    twin = situation.twin()
    _replace(change, twin)
    draws = critical_draws(twin, situation, "gaussian") if situation.example is not None else ()
    code = "\n".join(part for part in (_code(modules, target), code_of(draws)) if part)
    return _with(change, draws, code)


def _with(change: Change, draws: tuple[Draw, ...], code: str) -> Change:
    from dataclasses import replace

    return replace(change, draws=draws, code=code)


def _reason(ops: list[Op], function: str) -> str:
    assert ops[0].activation is not None
    derivative = max(op.activation.derivative_rms for op in ops if op.activation)
    most = ops[0].activation.derivative_max
    return f"{len(ops)} x {function}: its derivative is {derivative:.2g} here, {most:.3g} at most"


def _sites(model: nn.Module, ops: list[Op], target: str) -> tuple[list[str], tuple[SourceEdit, ...]]:
    """Activation modules by path, and calls in forward functions by line."""
    paths: list[str] = []
    edits: dict[SourceEdit, None] = {}
    for op in ops:
        path = op.site.module or ""
        module = model.get_submodule(path)
        if path and not list(module.children()) and _is_of_torch(op, model):
            paths.append(path)
            edits[SourceEdit(Edit.RENAME, type(module).__name__, "", target)] = None
        elif op.site.source and not _is_of_torch(op, model):
            edits[SourceEdit(Edit.RENAME, op.function, op.site.source, FUNCTIONS[target][0])] = None
    if not edits:
        raise RefusalError("the activation is hidden within a module of torch.nn that does not take another one")
    return list(dict.fromkeys(paths)), tuple(edits)


def apply(change: Change, twin: Twin) -> None:
    """Modules are swapped, calls rewritten, weights drawn."""
    _replace(change, twin)
    draw_all(change.draws, twin)


def _replace(change: Change, twin: Twin) -> None:
    target = change.word("target")
    by_path = dict(twin.model.named_modules(remove_duplicate=False))
    for path in change.where:
        if path in by_path and path:
            old = by_path[path]
            new = MODULES[target]()
            replace_module(twin.model, old, take_over(new, old))
            by_path = {p: new if m is old else m for p, m in by_path.items()}
    function = FUNCTIONS[target][1]
    for edit in change.edits:
        if edit.source:
            twin.rules.append(Rule(frozenset({edit.function}), edit.source, lambda _f, args, kwargs: function(args[0])))
    if not any(path in by_path and path for path in change.where) and not any(e.source for e in change.edits):
        raise RefusalError(f"none of {', '.join(change.where[:3])} is a module of this model")


def _code(modules: list[str], target: str) -> str:
    if not modules:
        return ""
    return f"for path in {listed(modules)}:\n    model.set_submodule(path, torch.nn.{target}())"


KIND = Kind(propose, apply)
