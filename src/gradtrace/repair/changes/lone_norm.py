"""A norm over a single entry is taken out: whatever comes in, its bias comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from gradtrace.diagnosis.wording import NORMALISED_ALONE
from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.output import is_of_torch
from gradtrace.repair.twin import Twin, replace_module, take_over

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation


def propose(situation: Situation) -> list[Change]:
    """Of the norms that are modules of torch."""
    found = [f for f in situation.findings if any(e.name == NORMALISED_ALONE for e in f.evidence)]
    paths = dict.fromkeys(path for finding in found for path in finding.where[:1])
    return [_change(path, situation) for path in paths if path and is_of_torch(situation.model, path)]


def _change(path: str, situation: Situation) -> Change:
    kind = type(situation.model.get_submodule(path)).__name__
    alike = [module for module in situation.model.modules() if type(module).__name__ == kind]
    return Change(
        kind="lone_norm",
        title=f"Take {path} ({kind}) away: it normalises a single entry.",
        where=(path,),
        reason="one entry without its mean is nought, and no gradient goes past it",
        edits=(SourceEdit(Edit.RENAME, kind, "", "Identity"),) if len(alike) == 1 else (),
        code=f"model.set_submodule({path!r}, torch.nn.Identity())",
        source="Ba et al. 2016; Wu & He 2018",
        state_dict_loads=False,
    )


def apply(change: Change, twin: Twin) -> None:
    """The identity stands in its place."""
    for path in change.where:
        old = twin.model.get_submodule(path)
        replace_module(twin.model, old, take_over(nn.Identity(), old))
        twin.disown(old.parameters())


KIND = Kind(propose, apply)
