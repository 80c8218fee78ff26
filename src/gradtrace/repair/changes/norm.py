"""A norm between each linear map and its activation: whatever the weights' scale, what comes out has variance one.

Ioffe & Szegedy (2015); Ba et al. (2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from gradtrace.records.repair import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.initialisation import listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin, replace_module

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_HELPS = {
    Cause.ACTIVATION_DERIVATIVE, Cause.SATURATED_PREACTIVATION, Cause.SMALL_WEIGHTS, Cause.LARGE_WEIGHTS,
    Cause.DEPTH_WITHOUT_SKIP, Cause.INPUT_SCALE,
}  # fmt: skip
_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d)


def propose(situation: Situation) -> list[Change]:
    """Behind every layer in front of a hidden activation, where there is no norm yet."""
    if not _HELPS & set(situation.causes) or any(isinstance(m, _NORMS) for m in situation.model.modules()):
        return []
    paths = _layers(situation)
    if not paths:
        return []
    return [
        Change(
            kind="norm",
            title=f"Put a norm behind {len(paths)} layers, in front of their activations.",
            where=tuple(paths),
            reason="the norm divides by the scale of what the weights make, forward and backward",
            code=_code(paths),
            source="Ba et al. 2016",
            state_dict_loads=False,
        )
    ]


def _layers(situation: Situation) -> list[str]:
    """Linear maps and convolutions that feed an activation, but not the output."""
    from gradtrace.diagnosis.layer import layer_below

    found: dict[str, None] = {}
    for op in situation.activations():
        below = layer_below(op, situation.paths)
        if below is None or below.site.module is None or not below.site.module:
            continue
        module = situation.model.get_submodule(below.site.module)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            found[below.site.module] = None
    return list(reversed(found))


def _norm(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.LayerNorm(layer.out_features)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return nn.GroupNorm(1, layer.out_channels)


def apply(change: Change, twin: Twin) -> None:
    """Each layer becomes a sequence of itself and its norm; the optimizer trains the norm too."""
    for path in change.where:
        layer = twin.model.get_submodule(path)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise RefusalError(f"{path} is no linear map or convolution")
        norm = _norm(layer).to(device=layer.weight.device, dtype=layer.weight.dtype)
        pair = nn.Sequential(layer, norm).train(layer.training)
        replace_module(twin.model, layer, pair)
        beside = next(iter(layer.parameters()))
        twin.adopt(norm.parameters(), beside)


def _code(paths: list[str]) -> str:
    return (
        f"for path in {listed(paths)}:\n"
        "    layer = model.get_submodule(path)\n"
        "    norm = torch.nn.LayerNorm(layer.out_features) if isinstance(layer, torch.nn.Linear) else "
        "torch.nn.GroupNorm(1, layer.out_channels)\n"
        "    model.set_submodule(path, torch.nn.Sequential(layer, norm))\n"
        "    optimizer.param_groups[0]['params'] += list(norm.parameters())"
    )


KIND = Kind(propose, apply)
