"""How is one call in the user's code made another one, on a copy, without an edit of the code?

A mode over torch's functions sees each call with its source line, and does the edited call instead: what is trained is
what the patch would make of that line.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.overrides import TorchFunctionMode

from gradtrace.tape.source import source_of

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""(function, arguments, named arguments) -> what the edited call returns."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One call to be replaced."""

    functions: frozenset[str]
    source: str
    """``file.py:12``; '' for any."""
    replacement: Replacement
    training_only: bool = False
    """Not while the unchanged loss function measures."""


class Rewriting(TorchFunctionMode):
    """A context around ``loss_fn(model, batch)``."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        super().__init__()
        self._rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The edited call where a rule knows this one, else the call."""
        name = name_of(func)
        rule = next((one for one in self._rules if name in one.functions), None)
        if rule is None:
            return func(*args, **(kwargs or {}))
        source = source_of(sys._getframe(1))
        for rule in self._rules:
            if name in rule.functions and rule.source in ("", source):
                return rule.replacement(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def rewritten(model: Any, rules: tuple[Rule, ...]) -> Iterator[None]:
    """The model's calls are the edited ones, for whatever mode looks at them from outside, too."""
    if not rules:
        yield
        return
    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with Rewriting(rules):
            return own(*args, **kwargs)

    before = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before


def name_of(function: Any) -> str:
    """Of a torch function, or of the property behind a getter, without underscores."""
    name = getattr(function, "__name__", "")
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(function, "__self__", None), "__name__", name))
    return str(name).strip("_") or str(name)
