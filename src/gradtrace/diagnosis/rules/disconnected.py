"""Parameters that should learn and cannot: no gradient although the loss depends on them, or no optimizer.

The loss's dependence is by value, not by tape: a head that this batch does not use or an expert without tokens does not
enter the loss at all and is left in peace.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner, places
from gradtrace.measure.path import Paths
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.parameter_name import told_name
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import CALL_WITH, MAKE_ONCE, remedies_for
from gradtrace.tape.kinds import base_name, is_derivative_of_activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.finding import Remedy
    from gradtrace.records.trace import Op, Trace

_STEPS = {"Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside"}
"""Functions whose derivative is zero wherever it exists."""


def judge(scene: Scene) -> list[Finding]:
    """Findings for cut, unregistered, stepped-over and optimizer-less parameters; an info for idle ones."""
    if not scene.exhibit.traces:
        return []
    return [*_cut(scene), *_made_anew(scene), *_unregistered(scene), *_stepped(scene), *_without_optimizer(scene)]


def _cut(scene: Scene) -> list[Finding]:
    traces = scene.exhibit.traces
    learned = {p.name for trace in traces for p in trace.parameters if p.gradient is not None}
    learned |= set(scene.exhibit.learning)
    missing = [p for p in traces[0].parameters if p.requires_grad and p.name not in learned]
    used = {p.name for trace in traces for p in trace.parameters if p.affects_loss}
    cut = [p.name for p in missing if p.name in used]
    stale = set(_stale(scene)) if _orphans(scene) else set()
    idle = [p.name for p in missing if p.name not in used and p.name not in stale]
    findings = []
    twin = _taught_by(cut, traces[0])
    if cut and scene.exhibit.optimizers and not set(cut) & held_by_optimizers(scene):
        message = f"{_count(cut)} ({_some(cut)}) get no gradient, and no optimizer holds them: they stay as they are."
        findings.append(_finding(_modules(cut), Severity.INFO, message, [Evidence("idle", len(cut), "parameters")]))
    elif cut and twin is not None and not scene.exhibit.optimizers:
        message = f"{_count(cut)} ({_some(cut)}) get no gradient: a copy of {twin or 'the model'}, like a mean teacher."
        findings.append(_finding(_modules(cut), Severity.INFO, message, [Evidence("copies", len(cut), "parameters")]))
    elif cut:
        severed = tuple(dict.fromkeys(text for trace in traces for text in trace.severed))
        places = f" The way is cut at {', '.join(severed[:3])}." if severed else ""
        findings.append(
            _finding(
                _modules(cut),
                Severity.CRITICAL,
                f"The loss depends on {_count(cut)} ({_some(cut)}), but no gradient reaches them.{places}",
                [Evidence("parameters cut off", len(cut), "parameters")],
                severed[0].partition("(")[2].rstrip(")") if severed else "",
            )
        )
    if idle:
        findings.append(
            _finding(
                _modules(idle),
                Severity.INFO,
                f"In these batches the loss does not depend on {_count(idle)} ({_some(idle)}): they learn nothing.",
                [Evidence("idle parameters", len(idle), "parameters")],
            )
        )
    return findings


def held_by_optimizers(scene: Scene) -> set[str]:
    """Names of the parameters that an optimizer holds."""
    return {name for optimizer in scene.exhibit.optimizers for name in optimizer.parameters}


def _taught_by(cut: list[str], trace: Trace) -> str | None:
    """The module of which all that is cut off is a copy, shape by shape; None: there is none.

    The weights of a mean (or momentum) teacher follow the other's and must not learn by themselves (Tarvainen & Valpola
    2017; He et al., MoCo, 2020).
    """
    if not cut:
        return None
    shapes = {p.name: (p.shape, f"{p.norm:.6e}") for p in trace.parameters}
    learned = {p.name for p in trace.parameters if p.gradient is not None}
    prefix = ""
    for parts in zip(*(name.split(".")[:-1] for name in cut), strict=False):
        if len(set(parts)) > 1:
            break
        prefix += f"{parts[0]}."
        rest = [name.removeprefix(prefix) for name in cut]
        for other in dict.fromkeys(name.removesuffix(rest[0]) for name in learned if name.endswith(rest[0])):
            if all(other + r in learned and shapes[other + r] == shapes[prefix + r] for r in rest):
                return other.rstrip(".")
    return None


def _unregistered(scene: Scene) -> list[Finding]:
    strangers = [p for trace in scene.exhibit.traces for p in trace.parameters if not p.in_model and not p.made_at]
    names = tuple(dict.fromkeys(p.name for p in strangers))
    if not names:
        return []
    message = (
        f"{_count(names)} ({_some(names)}) get a gradient but are not registered in the model: model.parameters() does "
        "not list them, so no optimizer built from it moves them. Keep layers in a ModuleList, tensors in a Parameter."
    )
    return [_finding(_modules(names), Severity.CRITICAL, message, [Evidence("unregistered", len(names), "parameters")])]


def _made_anew(scene: Scene) -> list[Finding]:
    """Layers made where they are used: numbers drawn at every pass, whose gradients nothing is done with."""
    found = [{p.name: p for p in trace.parameters if p.made_at} for trace in scene.exhibit.traces]
    everywhere = [p for name, p in found[0].items() if all(name in other for other in found)]
    drawn = [p.name for p in everywhere if not p.in_model]
    replaced = [p.name for p in everywhere if p.in_model]
    told = []
    if drawn:
        why = (
            "are made anew within every forward pass: other random numbers each time, and what they would learn is "
            "thrown away. Make the layer once, in __init__."
        )
        told.append(_anew(scene, drawn, found[0][drawn[0]].made_at, why, MAKE_ONCE))
    if replaced:
        why = (
            "made anew as Parameter at every forward pass: no gradient goes through a Parameter to what it was made "
            "of, and the optimizer holds the one that was there before."
        )
        told.append(_anew(scene, replaced, found[0][replaced[0]].made_at, why, CALL_WITH))
    return told


def _anew(scene: Scene, names: list[str], line: str, why: str, remedy: Remedy) -> Finding:
    users = [op.site.module for op in scene.exhibit.traces[0].ops if {*op.weights} & {*names}]
    where = tuple(dict.fromkeys(module or "" for module in users))
    evidence = [Evidence("made anew", len(names), "parameters")]
    message = f"{_count(names)} ({_some(names)}; {line}) {why}"
    return replace(_finding(where, Severity.CRITICAL, message, evidence, line), remedies=(remedy,))


def _stepped(scene: Scene) -> list[Finding]:
    """An op on every trace whose derivative is zero everywhere, where gradient arrives and none leaves."""
    trace = scene.exhibit.traces[0]
    ops = [op for op in trace.ops if base_name(op.name) in _STEPS and swallows(op) and not bypassed(op, trace)]
    if not ops:
        return _own_function(scene)
    paths = Paths(scene.exhibit.traces[0])
    where = places(ops, paths)
    message = (
        f"{base_name(ops[0].name).lower()} at {ops[0].site} passes no gradient: its derivative is zero wherever it "
        "exists. Use a smooth stand-in, or a straight-through estimator."
    )
    return [_finding(where, Severity.CRITICAL, message, [Evidence("ops", len(ops), "ops")], ops[0].site.source)]


def _own_function(scene: Scene) -> list[Finding]:
    """A function of the user's whose backward pass returns zeros, on every trace."""
    silent = [
        {(op.name, op.site): op for op in trace.ops if _is_own(op) and swallows(op)} for trace in scene.exhibit.traces
    ]
    trace = scene.exhibit.traces[0]
    everywhere = (op for key, op in silent[0].items() if all(key in other for other in silent))
    ops = [op for op in everywhere if not bypassed(op, trace)]
    if not ops:
        return []
    name = base_name(ops[0].name).removesuffix("Backward")
    message = (
        f"{name} at {ops[0].site} passes no gradient: what its backward pass returns is zero on each batch. "
        "A straight-through estimator returns the gradient that it is given."
    )
    where = places(ops, Paths(trace))
    return [_finding(where, Severity.CRITICAL, message, [Evidence("ops", len(ops), "ops")], ops[0].site.source)]


def _is_own(op: Op) -> bool:
    """Also where it is called like an op of torch, as a straight-through ``Sign`` is."""
    named_alike = base_name(op.name).endswith("Backward") and not is_derivative_of_activation(op.name)
    return op.factor is Factor.OTHER or named_alike


def swallows(op: Op) -> bool:
    """Whether gradient arrives, and none leaves."""
    passed = [stats.norm for stats in op.passed if stats is not None]
    return op.received is not None and op.received.norm > 0.0 and bool(passed) and not any(passed)


def bypassed(op: Op, trace: Trace) -> bool:
    """Whether gradient comes to the op's operand another way, as in sign(y) relu(|y| - b)."""
    below = [trace.ops[target[0]].received for target in op.targets if target is not None]
    return any(stats is not None and stats.norm > 0.0 for stats in below)


def _without_optimizer(scene: Scene) -> list[Finding]:
    optimizers = scene.exhibit.optimizers
    if not optimizers:
        return []
    held, orphans, trace = held_by_optimizers(scene), _orphans(scene), scene.exhibit.traces[0]
    if not orphans:
        return []
    foreign = sum(optimizer.num_foreign for optimizer in optimizers) + len(_stale(scene))
    stale = f" It holds {foreign} that are not the model's: was it built before they were replaced?" if foreign else ""
    learning = {p.name for p in trace.parameters if p.requires_grad and p.gradient is not None}
    idle = not held & learning
    nothing = " Nothing else gets one: no step moves anything." if idle and not foreign else ""
    message = f"No optimizer holds {_count(orphans)} ({_some(orphans)}), although they require a gradient."
    evidence = [
        Evidence("without optimizer", len(orphans), "parameters"),
        Evidence("foreign in optimizer", foreign, ""),
    ]
    severity = Severity.CRITICAL if foreign or idle else Severity.WARNING
    return [_finding(_modules(orphans), severity, f"{message}{stale}{nothing}", evidence)]


def _orphans(scene: Scene) -> list[str]:
    """Parameters of the model that ask for a gradient and get one, and that no optimizer holds."""
    if not scene.exhibit.optimizers:
        return []
    held = held_by_optimizers(scene)
    parameters = [p for p in scene.exhibit.traces[0].parameters if p.requires_grad and p.in_model]
    return [p.name for p in parameters if p.gradient is not None and p.name not in held]


def _stale(scene: Scene) -> list[str]:
    """What an optimizer holds, no module owns and no pass reaches: weights of layers that were replaced, as it seems.

    In a run they are found by the optimizer, beside the model; whom `check` is given a model, they are foreign to it.
    """
    traces = scene.exhibit.traces
    reached = {p.name for trace in traces for p in trace.parameters if p.gradient is not None or p.affects_loss}
    reached |= set(scene.exhibit.learning)
    return [name for one in scene.exhibit.optimizers for name in one.unowned if name not in reached]


def frozen(names: Sequence[str], optimizer: str) -> Finding:
    """The whole model is frozen, and an optimizer holds `names` of it: nothing to trace, and no training."""
    message = (
        f"No parameter requires a gradient: the whole model is frozen, and yet {optimizer} holds {_count(names)} of it "
        f"({_some(names)}). It has nothing to move. Call requires_grad_(True) on what is to learn."
    )
    evidence = [Evidence("frozen parameters that an optimizer holds", len(names), "parameters")]
    return _finding(_modules(names), Severity.CRITICAL, message, evidence)


def _finding(
    where: tuple[str, ...], severity: Severity, message: str, evidence: list[Evidence], source: str = ""
) -> Finding:
    remedies = remedies_for(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH) if severity is not Severity.INFO else ()
    return Finding(
        Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, where, severity, message, tuple(evidence), remedies, source
    )


def _modules(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(owner(name) for name in names))


def _count(names: Sequence[str]) -> str:
    return "one parameter" if len(names) == 1 else f"{len(names)} parameters"


def _some(names: Sequence[str]) -> str:
    return ", ".join(told_name(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
