"""Recurrences that remember: orthogonal maps, gates that stay open as long as the sequence, GRU or LSTM for RNN.

Le et al. (2015); Tallec & Ollivier, Can recurrent neural networks warp time? (2018); Cho et al. (2014);
Hochreiter & Schmidhuber (1997).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.records.change import Change, Draw
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import code_of, draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.open_gates import opened
from gradtrace.repair.changes.recurrent_draws import CHRONO, GATES, recurrent_draws
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_OPTIONS = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
_Recurrent = nn.RNNBase | nn.RNNCellBase
_Gated = nn.GRU | nn.LSTM | nn.GRUCell
GATED: dict[type[nn.Module], tuple[tuple[type[_Gated], ...], tuple[str, ...]]] = {
    nn.RNN: ((nn.GRU, nn.LSTM), _OPTIONS),
    nn.RNNCell: ((nn.GRUCell,), ("bias",)),
}
"""What takes the same, and the options that it is made with. An LSTM's state is two tensors: where the user's code
takes it as one, the trial fails and says so; a cell's state is always taken."""
REASONS = {
    "GRU": ("z h + (1 - z) n has a derivative near z along the state", "Cho et al. 2014"),
    "GRUCell": ("z h + (1 - z) n has a derivative near z along the state", "Cho et al. 2014"),
    "LSTM": ("f c + i g has the derivative f along the cell", "Hochreiter & Schmidhuber 1997"),
}
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
        if isinstance(module, _Recurrent):
            found += _kept_weights(path, module, horizon)
            found.append(_drawn(path, module, horizon))
            if type(module) in GATED:
                found += _gated(path, module, horizon)
        elif isinstance(module, nn.Linear) and module.in_features == module.out_features and path in where:
            found += [_orthogonal((f"{path}.weight",), gain) for gain in (1.0, math.sqrt(2.0))]
    found += opened(situation, horizon)
    for path in where:  # a block that is applied again and again
        inner = tuple(n for n, p in situation.model.named_parameters() if p.dim() > 1 and n.startswith(f"{path}."))
        if inner and not any(set(inner) & set(change.where) for change in found):
            found += [_orthogonal(inner, gain) for gain in (1.0, math.sqrt(2.0))]
    return found


def _length(situation: Situation) -> float:
    record = situation.diagnosis.through_time
    lengths = [len(chain.steps) for chain in record.chains if hasattr(chain, "steps")] if record is not None else []
    example = situation.example
    if not lengths and example is not None and example.args and isinstance(example.args[0], torch.Tensor):
        lengths = [example.args[0].shape[1]] if example.args[0].dim() > 1 else []
    return float(max(lengths, default=32))


def _kept_weights(path: str, module: _Recurrent, horizon: float) -> list[Change]:
    """The biases of the gates alone."""
    draws = recurrent_draws(path, module, horizon)
    if not any(draw.how == CHRONO for draw in draws):
        return []
    return [
        _draw(
            path,
            f"Let the gates of {path} stay open for up to {horizon:.0f} steps (chrono biases).",
            "what a gate keeps at each step, it passes back at each step",
            tuple(draw for draw in draws if draw.how == CHRONO or "bias" in draw.name),
            "Tallec & Ollivier 2018",
        )
    ]


def _drawn(path: str, module: _Recurrent, horizon: float) -> Change:
    draws = recurrent_draws(path, module, horizon)
    gated = any(draw.how == CHRONO for draw in draws)
    what = "orthogonal maps, gates that stay open as long (chrono)" if gated else "orthogonal maps"
    return _draw(
        path,
        f"Draw {path} for {horizon:.0f} steps: {what}.",
        "each step then keeps the gradient's size, but for a'",
        draws,
        "Saxe et al. 2014; Tallec & Ollivier 2018" if gated else "Saxe et al. 2014",
    )


def _draw(path: str, title: str, reason: str, draws: tuple[Draw, ...], source: str) -> Change:
    return Change(
        kind="recurrence",
        title=title,
        where=(path,),
        reason=reason,
        words=(("what", "draw"),),
        draws=draws,
        code=code_of(draws),
        source=source,
        loses_weights=True,
    )


def _gated(path: str, old: _Recurrent, horizon: float) -> list[Change]:
    """Each as torch draws it, and the same with gates that stay open as long as the sequence.

    Torch's own biases leave the gates at one half: what it keeps of a step is gone a few steps on.
    """
    found = []
    for kind in GATED[type(old)][0]:
        plain = _in_its_place(path, kind, GATED[type(old)][1])
        with torch.random.fork_rng(devices=[]):
            draws = recurrent_draws(path, _made(old, kind), horizon)
        opened = tuple(draw for draw in draws if draw.how in (GATES, CHRONO) or "bias" in draw.name)
        found.append(plain)
        if any(draw.how == CHRONO for draw in opened):
            what = plain.title.partition(":")[0]
            found.append(
                replace(
                    plain,
                    title=f"{what} whose gates stay open for up to {horizon:.0f} steps (chrono).",
                    draws=opened,
                    code=f"{plain.code}\n{code_of(opened)}",
                    source=f"{plain.source}; Tallec & Ollivier 2018",
                )
            )
    return found


def _in_its_place(path: str, gated: type[nn.Module], names: tuple[str, ...]) -> Change:
    options = ", ".join(f"{name}=rnn.{name}" for name in names)
    reason, source = REASONS[gated.__name__]
    return Change(
        kind="recurrence",
        title=f"Make {path} {'an' if gated is nn.LSTM else 'a'} {gated.__name__}: what its gate keeps, it passes back.",
        where=(path,),
        reason=reason,
        words=(("what", gated.__name__),),
        code=(
            f"rnn = model.get_submodule({path!r})\n"
            f"gated = torch.nn.{gated.__name__}(rnn.input_size, rnn.hidden_size, {options})\n"
            f"model.set_submodule({path!r}, gated.to(next(rnn.parameters())).train(rnn.training))\n"
            "optimizer.param_groups[0]['params'] += list(gated.parameters())"
        ),
        source=source,
        loses_weights=True,
        state_dict_loads=False,
    )


def _orthogonal(names: tuple[str, ...], gain: float) -> Change:
    return Change(
        kind="recurrence",
        title=f"Draw {', '.join(names)} orthogonal, with gain {gain:.3g}.",
        where=names,
        reason="a map that is applied again and again must neither shrink nor grow",
        words=(("what", "draw"),),
        draws=tuple(Draw(name, "orthogonal", gain) for name in names),
        code="\n".join(f"torch.nn.init.orthogonal_(model.get_parameter({name!r}), gain={gain:.4g})" for name in names),
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
    if type(old) not in GATED:
        raise RefusalError(f"{path} is no nn.RNN or nn.RNNCell")
    gated = next(kind for kind in GATED[type(old)][0] if kind.__name__ == change.word("what"))
    torch.manual_seed(int(torch.randint(2**31, (), generator=twin.generator)))
    new = _made(old, gated)
    beside = next(old.parameters())
    replace_module(twin.model, old, take_over(new, old))
    twin.adopt(new.parameters(), beside)
    twin.disown(list(old.parameters()))
    draw_all(change.draws, twin)


def _made(old: _Recurrent, gated: type[_Gated]) -> _Gated:
    """A gated one of the same sizes and options, drawn by torch's own random numbers."""
    options = {name: getattr(old, name) for name in GATED[type(old)][1]}
    return gated(old.input_size, old.hidden_size, **options)


KIND = Kind(propose, apply)
