"""Recurrences that remember: orthogonal maps, gates that stay open as long as the sequence, a GRU for an RNN.

Le et al. (2015); Tallec & Ollivier, Can recurrent neural networks warp time? (2018); Cho et al. (2014).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.records.repair import Change, Draw
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.initialisation import draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_CAUSES = {Cause.RECURRENT_CONTRACTION, Cause.RECURRENT_EXPANSION}


def propose(situation: Situation) -> list[Change]:
    """For every recurrent module to blame; for a weight that is applied again and again, an orthogonal one."""
    if not _CAUSES & set(situation.causes):
        return []
    where, found = situation.where(*_CAUSES), list[Change]()
    horizon = _length(situation)
    for path, module in situation.model.named_modules():
        blamed = not where or any(w == path or w.startswith(f"{path}.") for w in where)
        if not blamed:
            continue
        if isinstance(module, nn.RNNBase):
            found.append(_drawn(path, horizon))
            if type(module) is nn.RNN and not module.bidirectional:
                found.append(_gated(path))
        elif isinstance(module, nn.Linear) and module.in_features == module.out_features and path in where:
            found += [_orthogonal(f"{path}.weight", gain) for gain in (1.0, math.sqrt(2.0))]
    for path in where:  # a block that is applied again and again
        inner = [n for n, p in situation.model.named_parameters() if p.dim() > 1 and n.startswith(f"{path}.")]
        if len(inner) == 1 and not any(inner[0] in change.where for change in found):
            found += [_orthogonal(inner[0], gain) for gain in (1.0, math.sqrt(2.0))]
    return found


def _length(situation: Situation) -> float:
    record = situation.diagnosis.through_time
    lengths = [len(chain.steps) for chain in record.chains if hasattr(chain, "steps")] if record is not None else []
    example = situation.example
    if not lengths and example is not None and example.args and isinstance(example.args[0], torch.Tensor):
        lengths = [example.args[0].shape[1]] if example.args[0].dim() > 1 else []
    return float(max(lengths, default=32))


def _drawn(path: str, horizon: float) -> Change:
    return Change(
        kind="recurrence",
        title=f"Draw {path} for {horizon:.0f} steps: orthogonal maps, gates that stay open as long (chrono).",
        where=(path,),
        reason="each step then keeps the gradient's size, but for a'",
        words=(("what", "draw"),),
        draws=(Draw(path, "recurrent", horizon),),
        code=(
            f"# as gradtrace.init_critical_ does; in short:\nfor name, value in model.get_submodule({path!r})"
            ".named_parameters():\n    if 'weight_hh' in name:\n"
            "        for block in value.data.chunk(value.shape[0] // value.shape[1]):\n"
            "            torch.nn.init.orthogonal_(block)"
        ),
        source="Saxe et al. 2014; Tallec & Ollivier 2018",
        loses_weights=True,
    )


def _gated(path: str) -> Change:
    return Change(
        kind="recurrence",
        title=f"Make {path} a GRU: what its gate keeps, it passes back.",
        where=(path,),
        reason="z h + (1 - z) n has a derivative near z along the state",
        words=(("what", "gru"),),
        code=(
            f"rnn = model.get_submodule({path!r})\n"
            f"model.set_submodule({path!r}, torch.nn.GRU(rnn.input_size, rnn.hidden_size, rnn.num_layers, "
            "batch_first=rnn.batch_first))"
        ),
        source="Cho et al. 2014",
        loses_weights=True,
        state_dict_loads=False,
    )


def _orthogonal(name: str, gain: float) -> Change:
    return Change(
        kind="recurrence",
        title=f"Draw {name} orthogonal, with gain {gain:.3g}.",
        where=(name,),
        reason="a map that is applied again and again must neither shrink nor grow",
        words=(("what", "draw"),),
        draws=(Draw(name, "orthogonal", gain),),
        code=f"torch.nn.init.orthogonal_(model.get_parameter({name!r}), gain={gain:.4g})",
        source="Saxe et al. 2014",
        loses_weights=True,
    )


def apply(change: Change, twin: Twin) -> None:
    """Drawn anew, or replaced."""
    if change.word("what") == "draw":
        draw_all(change.draws, twin)
        return
    (path,) = change.where
    old = twin.model.get_submodule(path)
    if not isinstance(old, nn.RNN):
        raise RefusalError(f"{path} is no nn.RNN")
    torch.manual_seed(int(torch.randint(2**31, (), generator=twin.generator)))
    new = nn.GRU(
        old.input_size, old.hidden_size, old.num_layers, bias=old.bias, batch_first=old.batch_first, dropout=old.dropout
    )
    beside = next(old.parameters())
    replace_module(twin.model, old, take_over(new, old))
    twin.adopt(new.parameters(), beside)
    twin.disown(list(old.parameters()))


KIND = Kind(propose, apply)
