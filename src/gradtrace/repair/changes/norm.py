"""A norm between each linear map and its activation: whatever the weights' scale, what comes out has variance one.

Ioffe & Szegedy (2015) over the batch; Ba et al. (2016) over the units of a sample; Zhang & Sennrich (2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gradtrace.records.change import Change
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin, replace_module

if TYPE_CHECKING:
    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_HELPS = {
    Cause.ACTIVATION_DERIVATIVE, Cause.SATURATED_PREACTIVATION, Cause.SMALL_WEIGHTS, Cause.LARGE_WEIGHTS,
    Cause.DEPTH_WITHOUT_SKIP, Cause.INPUT_SCALE,
}  # fmt: skip
_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
FEWEST_SAMPLES = 8
"""Of a batch, whose statistics are those of its samples: of fewer, each moves them by more than a tenth."""


@dataclass(frozen=True, slots=True)
class Norm:
    """One that can be put behind a layer."""

    title: str
    source: str
    code: str
    """Of ``layer``, an expression."""
    make: Callable[[nn.Module], nn.Module]


def _layer_norm(layer: nn.Module) -> nn.Module:
    return nn.LayerNorm(layer.out_features) if isinstance(layer, nn.Linear) else nn.GroupNorm(1, _width(layer))


def _batch_norm(layer: nn.Module) -> nn.Module:
    return nn.BatchNorm2d(_width(layer)) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(_width(layer))


def _rms_norm(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Linear):
        raise RefusalError("an RMSNorm is for the last axis, which is no channel of a convolution")
    return nn.RMSNorm(layer.out_features)


def _width(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


NORMS = {
    "layer": Norm(
        "a norm",
        "Ba et al. 2016",
        "torch.nn.LayerNorm(layer.out_features) if isinstance(layer, torch.nn.Linear) else "
        "torch.nn.GroupNorm(1, layer.out_channels)",
        _layer_norm,
    ),
    "batch": Norm(
        "a BatchNorm",
        "Ioffe & Szegedy 2015",
        "torch.nn.BatchNorm2d(layer.out_channels) if isinstance(layer, torch.nn.Conv2d) else "
        "torch.nn.BatchNorm1d(layer.weight.shape[0])",
        _batch_norm,
    ),
    "rms": Norm("an RMSNorm", "Zhang & Sennrich 2019", "torch.nn.RMSNorm(layer.out_features)", _rms_norm),
}
"""The usual one first."""


def propose(situation: Situation) -> list[Change]:
    """Behind every layer in front of a hidden activation, where there is no norm yet."""
    if not _HELPS & set(situation.causes) or any(isinstance(m, _NORMS) for m in situation.model.modules()):
        return []
    found = _layers(situation)
    layers = [situation.model.get_submodule(path) for path in found]
    kinds = ["layer"] if found else []
    if found and situation.model.training and all(map(_has_samples, layers, found.values())):
        kinds.append("batch")
    if found and all(isinstance(layer, nn.Linear) for layer in layers):
        kinds.append("rms")
    return [_change(kind, list(reversed(found))) for kind in kinds]


def _has_samples(layer: nn.Module, op: Op) -> bool:
    """Enough of them in a batch for its statistics, and none of them positions of a sequence."""
    shape = op.received.shape if op.received is not None else ()
    if not shape or shape[0] < FEWEST_SAMPLES:
        return False
    return len(shape) == 2 or not isinstance(layer, nn.Linear)


def _change(kind: str, paths: list[str]) -> Change:
    norm = NORMS[kind]
    return Change(
        kind="norm",
        title=f"Put {norm.title} behind {counted(len(paths), 'layer')}, in front of their activations.",
        where=tuple(paths),
        reason="the norm divides by the scale of what the weights make, forward and backward",
        words=(("what", kind),),
        code=_code(norm, paths),
        source=norm.source,
        state_dict_loads=False,
    )


def _layers(situation: Situation) -> dict[str, Op]:
    """Linear maps and convolutions that feed an activation, but not the output."""
    from gradtrace.diagnosis.layer import layer_below

    found: dict[str, Op] = {}
    for op in situation.activations():
        below = layer_below(op, situation.paths)
        if below is None or below.site.module is None or not below.site.module:
            continue
        module = situation.model.get_submodule(below.site.module)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            found[below.site.module] = below
    return found


def apply(change: Change, twin: Twin) -> None:
    """Each layer becomes a sequence of itself and its norm; the optimizer trains the norm too."""
    make = NORMS[change.word("what")].make
    for path in change.where:
        layer = twin.model.get_submodule(path)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise RefusalError(f"{path} is no linear map or convolution")
        norm = make(layer).to(device=layer.weight.device, dtype=layer.weight.dtype)
        pair = nn.Sequential(layer, norm).train(layer.training)
        replace_module(twin.model, layer, pair)
        beside = next(iter(layer.parameters()))
        twin.adopt(norm.parameters(), beside)


def _code(norm: Norm, paths: list[str]) -> str:
    return (
        f"for path in {listed(paths)}:\n"
        "    layer = model.get_submodule(path)\n"
        f"    norm = {norm.code}\n"
        "    model.set_submodule(path, torch.nn.Sequential(layer, norm))\n"
        "    optimizer.param_groups[0]['params'] += list(norm.parameters())"
    )


KIND = Kind(propose, apply)
