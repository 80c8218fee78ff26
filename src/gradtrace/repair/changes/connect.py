"""What is cut off is connected: parameters that no optimizer holds, layers that are not registered, a stray detach.

Where the tape is left by a number (.item(), argmax) only the user's code can mend it: that is said, with the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.no_grad import SWITCH, blocks_around, stay_on
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.repair.situation import Situation

_CUTS = {"detach": "detach", "data": "data", "detach_": "detach", "no_grad": SWITCH}
"""Function in the user's line -> the one that is called."""


def propose(situation: Situation) -> list[Change]:
    """Cuts in the graph first, then registration, then the optimizer's list."""
    if Cause.DETACHED_GRAPH not in situation.causes:
        return []
    severed = [_parts(text) for trace in situation.diagnosis.traces[:1] for text in trace.severed]
    changes = [_uncut(name, source) for name, source in severed if name in _CUTS and source]
    lines = {source for _, source in severed if source}
    changes += [_uncut("no_grad", block) for block in (blocks_around(lines, situation) if lines else [])]
    loose = unregistered(situation.model)
    if loose:
        changes.append(
            Change(
                kind="connect",
                title=f"Register {', '.join(path for path, _ in loose[:3])} with the model, and train what is in it.",
                where=tuple(path for path, _ in loose),
                reason="model.parameters() does not know what is in a plain list or tensor",
                words=(("what", "register"),),
                code="\n".join(_registration(path, value) for path, value in loose),
                source="documentation of torch.nn.ModuleList",
                state_dict_loads=False,
            )
        )
    missing = _unheld(situation)
    if missing and not loose:
        changes.append(
            Change(
                kind="connect",
                title=f"Give the optimizer all of model.parameters(): {', '.join(missing[:3])} are missing.",
                where=tuple(missing),
                reason="what no optimizer holds is not moved",
                words=(("what", "hold"),),
                code=(
                    "held = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
                    "optimizer.param_groups[0]['params'] += "
                    "[p for p in model.parameters() if p.requires_grad and id(p) not in held]"
                ),
                source="documentation of torch.optim",
            )
        )
    return changes


def _parts(text: str) -> tuple[str, str]:
    """Of ``detach (net.py:12)``."""
    name, _, rest = text.partition(" (")
    return name, rest.removesuffix(")")


def _uncut(name: str, source: str) -> Change:
    return Change(
        kind="connect",
        title=f"Keep the computation on the tape: no {name} at {source}.",
        where=(source,),
        reason="what lies before it gets no gradient",
        words=(("what", "uncut"), ("function", _CUTS[name]), ("source", source)),
        edits=(
            SourceEdit(Edit.UNWRAP, name, source) if name == "no_grad" else SourceEdit(Edit.CALL, name, source, "{x}"),
        ),
        code=f"# {source}: without {'' if name == 'no_grad' else '.'}{name}" + ("" if name == "data" else "()"),
        source="documentation of torch.no_grad" if name == "no_grad" else "documentation of torch.Tensor.detach",
    )


def unregistered(model: nn.Module) -> list[tuple[str, Any]]:
    """(path, module or tensor) of what attributes, lists and dicts of the modules hold without registration."""
    known = {id(m) for m in model.modules()} | {id(p) for p in model.parameters()} | {id(b) for b in model.buffers()}
    found = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            here = f"{path}.{name}".lstrip(".")
            held = _held(value)
            modules = [each for each in held if isinstance(each, nn.Module) and id(each) not in known]
            loose = isinstance(value, Tensor) and value.requires_grad and value.is_leaf and id(value) not in known
            if loose or (modules and len(modules) == len(held)):
                found.append((here, value))
    return found


def _held(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _registration(path: str, value: Any) -> str:
    owner, _, name = path.rpartition(".")
    target = f"model.{owner}.{name}" if owner else f"model.{name}"
    kind = "Parameter" if isinstance(value, Tensor) else "ModuleDict" if isinstance(value, dict) else "ModuleList"
    return (
        f"value = {target}\ndel {target}\n{target} = torch.nn.{kind}(value)\n"
        "held = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
        "optimizer.param_groups[0]['params'] += [p for p in model.parameters() if id(p) not in held]"
    )


def _unheld(situation: Situation) -> list[str]:
    held = {id(p) for o in situation.optimizers for g in o.param_groups for p in g["params"]}
    return [n for n, p in situation.model.named_parameters() if p.requires_grad and id(p) not in held]


def apply(change: Change, twin: Twin) -> None:
    """On the copy."""
    what = change.word("what")
    if what == "uncut":
        function = change.word("function")
        twin.rules.append(Rule(frozenset({function}), change.word("source"), stay_on if function == SWITCH else _first))
        return
    if what == "register":
        loose = dict(unregistered(twin.model))
        for path in change.where:
            if path not in loose:
                raise RefusalError(f"{path} holds nothing unregistered")
            _register(twin.model, path, loose[path])
    if not twin.optimizers:
        raise RefusalError("there is no optimizer to give parameters to")
    twin.adopt(twin.model.parameters(), None)


def _register(model: nn.Module, path: str, value: Any) -> None:
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    delattr(module, name)
    if isinstance(value, Tensor):
        setattr(module, name, nn.Parameter(value.detach()))
    else:
        setattr(module, name, nn.ModuleDict(value) if isinstance(value, dict) else nn.ModuleList(value))


def _first(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor itself."""
    return args[0]


KIND = Kind(propose, apply)
