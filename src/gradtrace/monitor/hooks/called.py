"""Which modules are looked at when they are called: the models, or else the parts of those that nobody calls.

Dynamo goes through the calls of modules inside of what is compiled, and would compile again when a class's stand-in
goes: such classes are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.monitor.hooks.compiled_code import CompiledCalls
from gradtrace.monitor.hooks.module_calls import ModuleCalls
from gradtrace.tape.private import anything_compiled, compiled_call, original_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener
    from gradtrace.monitor.watched import Watched


class Called:
    """Looks between `look` and `look_away`, both idempotent."""

    def __init__(self, watched: Watched, listener: PassListener, guard: Guard) -> None:
        self._watched, self._listener, self._guard = watched, listener, guard
        self._is_choosing = True
        """Until it is known whether the models are called themselves."""
        self._calls: ModuleCalls | None = None
        self._functions: CompiledCalls | None = None

    def look(self) -> None:
        """From now on."""
        self._look_at_functions()
        if self._calls is not None:
            self._calls.resume()
        if self._calls is not None or not self._watched.roots:
            return
        modules = dict(self._watched.roots)
        if self._is_choosing:
            modules = {**self._watched.parts(), **modules}
        inside = kinds_inside_of_compiled(modules.values())
        modules = {label: module for label, module in modules.items() if type(module) not in inside}
        self._calls = ModuleCalls(modules, self._listener, self._guard)

    def _look_at_functions(self) -> None:
        if self._functions is None and anything_compiled():
            self._functions = CompiledCalls(lambda: self._watched.whole, self._listener, self._guard)

    def rest(self) -> None:
        """Not until the next `look`. Code that calls a model and was compiled meanwhile must not notice."""
        if self._calls is not None and anything_compiled():
            self._calls.pause()
            self._look_away_from_functions()
        else:
            self.look_away()

    def look_away(self) -> None:
        """No longer."""
        self._look_away_from_functions()
        if self._calls is not None:
            self._calls.close()
            self._calls = None

    def _look_away_from_functions(self) -> None:
        if self._functions is not None:
            self._functions.close()
            self._functions = None

    def choose(self, called: set[str]) -> None:
        """These labels were called in a step: from now on only they are looked at, unless that is settled already."""
        self._look_at_functions()  # one may have been compiled meanwhile
        if self._is_choosing and called:
            self._is_choosing = False
            self._watched.keep_called(called)
            self._look_afresh()

    def choose_again(self) -> None:
        """More is watched than before."""
        self._is_choosing = True
        self._look_afresh()

    def _look_afresh(self) -> None:
        if self._calls is not None:
            self._calls.close()
            self._calls = None
            self.look()


def kinds_inside_of_compiled(modules: Iterable[nn.Module]) -> set[type[nn.Module]]:
    """Classes of modules that are called from within compiled ones.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    >>> model[0].compile(backend="eager")
    >>> kinds_inside_of_compiled([model]) == {nn.ReLU}
    True
    """
    found: set[type[nn.Module]] = set()
    for one in {id(part): part for module in modules for part in module.modules()}.values():
        original = original_of(one)
        if original is not None:
            found |= {type(part) for part in original.modules()}
        elif compiled_call(one) is not None:
            found |= {type(part) for part in one.modules() if part is not one}
    return found
