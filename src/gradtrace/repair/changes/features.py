"""Each feature of what comes in, in units of its own: by numbers measured on the batches. LeCun et al. (1998), 4.3.

What comes in is what the model is called with; or what a first layer takes, where data are put together inside of the
model (a time beside a position), or come as sequences.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.audit.arguments import captured_input
from gradtrace.errors import InputError
from gradtrace.measure.untouched import untouched
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.scale import SPREAD

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

MOST_FEATURES = 64
"""More numbers than these are not written into a file."""
_MENDED = {Cause.INPUT_SCALE, Cause.SATURATED_PREACTIVATION, Cause.LEARNING_RATE, Cause.LARGE_WEIGHTS, Cause.UNSAFE_OP}


def propose(situation: Situation) -> list[Change]:
    """Of the model's input, if that is a table whose columns differ in scale; else of the first layer to blame."""
    if not _MENDED & set(situation.causes):
        return []
    whole = _tables("", situation)
    change = _standardised(whole, "") if whole is not None and whole.dim() == 2 else None
    if change is not None:
        return [change]
    blamed = situation.where(Cause.INPUT_SCALE, Cause.SATURATED_PREACTIVATION)
    for path in (path for path in blamed if path and _takes_features(path, situation)):
        taken = _tables(path, situation)
        if taken is not None:
            is_inner = whole is None or whole.shape != taken.shape or not torch.equal(whole, taken)
            change = _standardised(taken.reshape(-1, taken.shape[-1]), path, is_inner=is_inner)
            if change is not None:
                return [change]
    return []


def _tables(path: str, situation: Situation) -> Tensor | None:
    """[examples, ..., features] of all batches: the data that the model (or a layer) is called with first."""
    tables = [_table(batch, path, situation) for batch in situation.batches]
    known = [table for table in tables if table is not None]
    if len(known) < len(tables) or len({table.shape[1:] for table in known}) != 1:
        return None
    return torch.cat(known).double().cpu()


def _takes_features(path: str, situation: Situation) -> bool:
    """A layer that is called once in a pass, and whose last axis are features."""
    calls = {op.site.call for op in situation.trace.ops if op.site.module == path}
    known = nn.Linear | nn.RNNBase | nn.RNNCellBase
    return len(calls) == 1 and isinstance(dict(situation.model.named_modules()).get(path), known)


def _table(batch: Any, path: str, situation: Situation) -> Tensor | None:
    """Of one batch; None for what depends on a parameter, and for more than `MOST_FEATURES`."""
    model = situation.model
    if situation.called_with is not None and path:
        return None
    try:
        with untouched(model):
            inner = model.get_submodule(path)
            called = situation.called_with or captured_input(model, situation.loss_fn, batch, of=inner)
    except InputError:
        return None
    first = called.args[0] if called.args else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.requires_grad or len(first) < 2:
        return None
    return first.detach() if first.dim() > 1 and first.shape[-1] <= MOST_FEATURES else None


def _standardised(values: Tensor, path: str, *, is_inner: bool = False) -> Change | None:
    """A constant column is taken out; columns of one scale are left to one mean, where it can be taken of the input."""
    stds, means = values.std(0), values.mean(0)
    known = stds[stds > 0.0]
    if not bool(torch.isfinite(values).all()) or not len(known):
        return None
    rms = float(values.square().mean().sqrt())
    is_off = is_inner and not 1 / SPREAD <= rms <= SPREAD
    if float(known.max() / known.min()) <= SPREAD and not is_off:
        return None
    divisors = torch.where(stds > 0.0, stds, torch.ones_like(stds))
    numbers = [float(f"{x:.4g}") for x in (*means.tolist(), *divisors.tolist())]
    width = len(stds)
    mean, std = numbers[:width], numbers[width:]
    layer = f"model.get_submodule({path!r})" if path else "model"
    return Change(
        kind="features",
        title=f"Standardise each of the {width} features {f'that {path} takes' if path else 'of the input'}.",
        where=(path or "input",),
        reason=f"their standard deviations are {float(known.min()):.3g} to {float(known.max()):.3g}, and weights are "
        f"made for features of {'one scale' if math.isclose(rms, 1.0, rel_tol=SPREAD) else 'scale one'}",
        words=(("module", path),),
        numbers=tuple((f"{name}{i}", x) for name, each in (("mean", mean), ("std", std)) for i, x in enumerate(each)),
        code=(
            f"{layer}.register_forward_pre_hook(\n"
            f"    lambda module, args, mean=torch.tensor({mean}), std=torch.tensor({std}):\n"
            "    ((args[0] - mean.to(args[0])) / std.to(args[0]), *args[1:])\n"
            ")"
        ),
        source="LeCun et al. 1998",
    )


class StandardiseEach:
    """A pre-hook: the first argument, feature by feature."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, _module: nn.Module, args: Any) -> Any:
        """The changed arguments."""
        return ((args[0] - self.mean.to(args[0])) / self.std.to(args[0]), *args[1:])


def apply(change: Change, twin: Twin) -> None:
    """A hook on the model, or on the layer."""
    values = [value for _, value in change.numbers]
    half = len(values) // 2
    hook = StandardiseEach(values[:half], values[half:])
    twin.model.get_submodule(change.word("module")).register_forward_pre_hook(hook)


KIND = Kind(propose, apply)
