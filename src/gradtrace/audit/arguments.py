"""What is a model called with? One tensor, several, or named ones; or whatever a loss function hands to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a model is called with, positional and named."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example_input: Any) -> Arguments:
        """A tuple is positional, a dict named arguments; anything else the only one."""
        if isinstance(example_input, Arguments):
            return example_input
        if isinstance(example_input, dict):
            return cls(kwargs=example_input)
        return cls(example_input if type(example_input) is tuple else (example_input,))

    def call(self, model: nn.Module) -> Any:
        """The model's output; raises `InputError` with what went wrong."""
        try:
            return model(*self.args, **self.kwargs)
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            raise InputError(f"the model raised {type(error).__name__} on the example input: {first}") from error


def captured_input(
    model: nn.Module, loss_fn: Callable[[Any, Any], Any], batch: Any, of: nn.Module | None = None
) -> Arguments:
    """What `loss_fn(model, batch)` calls the model (or a part `of` it) with first; `InputError` where it does not."""
    seen: list[Arguments] = []

    def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(Arguments(args, kwargs))
        raise _Captured

    handle = (model if of is None else of).register_forward_pre_hook(note, with_kwargs=True)
    try:
        loss_fn(model, batch)
    except _Captured:
        return seen[0]
    except Exception as error:
        raise InputError(f"loss_fn(model, batch) raised {type(error).__name__}: {error}") from error
    finally:
        handle.remove()
    raise InputError(
        "loss_fn(model, batch) does not call the model itself; let the factory return (model, example_input)"
    )


class _Captured(Exception):  # noqa: N818 - it is no error
    """The model was called: enough seen."""
