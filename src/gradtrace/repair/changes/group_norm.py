"""Batch norm without skips: a norm over each sample's units in its place, which does not amplify the gradient.

Behind a ReLU the mean over the batch is taken out, and with it 1/pi of the mean square: a layer that keeps the forward
scale then multiplies the gradient by 1 / sqrt(1 - 1/pi) = 1.21 (Yang et al., A mean field theory of batch
normalization, 2019). The mean over a sample's units is near zero, whatever it is over the batch: a layer norm's factor
is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.records.change import Change
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def propose(situation: Situation) -> list[Change]:
    """All of them: what is left of it multiplies as before."""
    if Cause.BATCHNORM_EXPLOSION not in situation.causes:
        return []
    paths = [path for path, module in situation.model.named_modules() if path and isinstance(module, _BATCH_NORMS)]
    if not paths:
        return []
    return [
        Change(
            kind="group_norm",
            title=f"Put a LayerNorm (a GroupNorm of one group) in place of {counted(len(paths), 'batch norm')}.",
            where=tuple(paths),
            reason="over a sample's units it divides by what the weights make of them, and the gradient keeps its size",
            code=_code(paths),
            source="Ba et al. 2016; Wu & He 2018; Yang et al. 2019",
            state_dict_loads=False,
        )
    ]


def _code(paths: list[str]) -> str:
    return (
        f"for path in {listed(paths)}:\n"
        "    old = model.get_submodule(path)\n"
        "    new = torch.nn.GroupNorm(1, old.num_features, eps=old.eps, affine=old.affine)\n"
        "    new.weight, new.bias = old.weight, old.bias\n"
        "    model.set_submodule(path, new)"
    )


def apply(change: Change, twin: Twin) -> None:
    """The weights of the affine map stay the same parameters."""
    for path in change.where:
        old = twin.model.get_submodule(path)
        if not isinstance(old, _BATCH_NORMS):
            raise RefusalError(f"{path} is no batch norm")
        with torch.random.fork_rng(devices=[]):
            new = take_over(nn.GroupNorm(1, old.num_features, eps=old.eps, affine=old.affine), old)
        new.weight, new.bias = old.weight, old.bias
        replace_module(twin.model, old, new)


KIND = Kind(propose, apply)
