"""Where does the script make its optimizers, and what does it call the model there? The innermost line of its own."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.runner.discovery import Discovery
from gradtrace.runner.fixing.exchange import Place
from gradtrace.runner.names import contents

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from torch.optim import Optimizer

_NOT_THE_USERS = (str(Path(__file__).resolve().parents[2]) + "/", sysconfig.get_paths()["stdlib"] + "/", "<")


@dataclass(frozen=True, slots=True)
class Making:
    """An optimizer was made here."""

    file: str
    line: int
    rates: tuple[Any, ...]
    names: dict[int, str] = field(default_factory=dict)
    """Of a module's identity: what it is called there."""

    def place(self, model: nn.Module) -> Place:
        """The same, for whoever edits."""
        return Place(self.file, self.line, self.names.get(id(model), ""))


class PatientDiscovery(Discovery):
    """Keeps looking where something is to be compiled (here nothing is), and notes where optimizers are made."""

    def __init__(self, then: Callable[[Any], None], fail: Callable[[Exception], None]) -> None:
        self.makings: dict[int, Making] = {}
        super().__init__(then, fail)

    def _at_making(self, own: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        frame = _frame_of_the_script()
        result = super()._at_making(own, optimizer, *args, **kwargs)
        if frame is not None:
            rates = tuple(group.get("lr") for group in optimizer.param_groups)
            self.makings[id(optimizer)] = Making(frame.f_code.co_filename, frame.f_lineno, rates, _names_in(frame))
        return result

    def _at_compile(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)


def _frame_of_the_script() -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS) and "site-packages" not in file:
            return frame
        frame = frame.f_back
    return None


def _names_in(frame: FrameType) -> dict[int, str]:
    """Modules that variables hold there, and attributes of what they hold."""
    found: dict[int, str] = {}
    scope = {**frame.f_globals, **frame.f_locals}
    for name, value in scope.items():
        if isinstance(value, nn.Module):
            found.setdefault(id(value), name)
    for name, value in scope.items():
        if not isinstance(value, nn.Module) and not name.startswith("_"):
            for part, inner in contents(value):
                if isinstance(inner, nn.Module):
                    found.setdefault(id(inner), f"{name}{part}")
    return found
