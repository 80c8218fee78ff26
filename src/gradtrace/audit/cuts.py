"""Which parameters is the output made from, yet without their gradient, and where was it cut?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradtrace.tape.recorder import Recorder

_SHAPE_ONLY = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand", "gt ", "lt ", "ge ", "le ", "eq ",
               "ne ", "arg")  # fmt: skip
"""Functions that never had a gradient to hand on."""


def cuts(model: nn.Module, recorder: Recorder, outputs: list[Tensor]) -> list[str]:
    """One sentence that names them; none where all learn."""
    reached = [recorder.dataflow.reach(output) for output in outputs]
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    used = {name for names, _ in reached for name in names} & learning.keys()
    on_tape = _leaves(outputs)
    lost = [name for name in learning if name in used and id(learning[name]) not in on_tape]
    places = dict.fromkeys(place for _, places in reached for place in places if not place.startswith(_SHAPE_ONLY))
    if not lost:
        return []
    whom = lost[0] if len(lost) == 1 else f"{lost[0]} and {len(lost) - 1} more parameters"
    return [f"gradient is cut at {' and '.join(list(places)[:2]) or 'an unseen place'}: {whom} get none"]


def _leaves(outputs: list[Tensor]) -> set[int]:
    """Ids of the parameters that the tape leads to."""
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen, found = set(stack), set[int]()
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
        fresh = [above for above, _ in node.next_functions if above is not None and above not in seen]
        seen.update(fresh)
        stack += fresh
    return found
