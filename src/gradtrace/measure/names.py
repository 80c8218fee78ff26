"""What is a place called, for a reader? A module's path says little where it is a number: class and shape are told.

model[38] (Linear)      in a sentence
38 Linear 32x32         in a row
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.parameter_name import module_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import Trace


class Names:
    """The class of each module that recorded an op, and the shape of its weights; of no trace, nothing."""

    def __init__(self, *traces: Trace) -> None:
        self._types = {op.site.module: op.site.module_type for trace in traces for op in trace.ops if op.site.module}
        self._matrices: dict[str, dict[str, tuple[int, ...]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for parameter in (parameter for trace in traces[:1] for parameter in trace.parameters):
            if len(parameter.shape) > 1:
                path = module_in(parameter.name)
                own = parameter.name[len(path) :].removeprefix(".")
                self._matrices.setdefault(path, {})[own] = self._shapes[parameter.name] = parameter.shape

    def told(self, path: str, source: str = "") -> str:
        """``model[38] (Linear, net.py:12)``, ``encoder.0 (Block)``; '' is the model."""
        detail = ", ".join(filter(None, (self._types.get(path, ""), source)))
        return f"{expression(path)} ({detail})" if detail else expression(path)

    def listed(self, paths: tuple[str, ...], most: int = 3) -> str:
        """``a (Linear), b (Linear) and 17 more``."""
        told = ", ".join(self.told(path) for path in paths[:most])
        return told + (f" and {len(paths) - most} more" if len(paths) > most else "")

    def labels(self, path: str, parameters: Sequence[str] = ()) -> tuple[str, ...]:
        """What a row may be called, the most telling first: with class and shape, with the class, the path alone.

        Of a module with several matrices a row may hold the one among its `parameters`, which is told in place of the
        class: `rnn weight_hh_l0`; and so is one that the module applies and another holds: `vars.0`.
        """
        kind, matrices = self._types.get(path, ""), self._matrices.get(path, {})
        held = [name for name in parameters if name in self._shapes]
        own = f"{path}." if path else ""
        one = held[0].removeprefix(own) if len(held) == 1 and (len(matrices) > 1 or module_in(held[0]) != path) else ""
        shape = self._shapes[held[0]] if one else next(iter(matrices.values())) if len(matrices) == 1 else ()
        told = path or ("" if one else "model")
        if one.isdigit():  # of a ParameterList
            told, kind, one = f"{told}.{one}", "", ""
        levels = ((told, kind, one, "x".join(map(str, shape))), (told, one or kind), (path or "model",))
        return tuple(" ".join(filter(None, parts)) for parts in levels)


def expression(path: str) -> str:
    """A path that begins with a number as Python has it; '' is the model.

    >>> expression("38"), expression("0.2.weight"), expression("encoder.0"), expression("")
    ('model[38]', 'model[0][2].weight', 'encoder.0', 'the model')
    """
    if not path:
        return "the model"
    if not path.partition(".")[0].isdigit():
        return path
    return python_of(path)


def python_of(path: str) -> str:
    """The Python that reaches a module.

    >>> python_of("encoder.0.rnn"), python_of("")
    ('model.encoder[0].rnn', 'model')
    """
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)
