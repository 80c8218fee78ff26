"""Which networks get a gradient, are there to learn, and are held by no optimizer?

What is in evaluation mode is used as it is (a perceptual loss, a teacher), and so is a copy of a network that learns
(a target network): these are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.runner import discovery
from gradtrace.runner.anatomy import named_parameters, named_parts
from gradtrace.runner.names import label_models
from gradtrace.runner.ownership import owners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


def unheld(strangers: Sequence[nn.Parameter]) -> dict[str, int]:
    """By the script's name of a network of which no optimizer holds anything, how many of its parameters get one."""
    modules, optimizers = discovery.living(collects=False)  # within a step; what was dropped may hold one
    held = {id(tensor) for one in optimizers for tensor in discovery.held_by(one)}
    owned = owners(modules)
    found = [owned[id(one)] for one in strangers if id(one) in owned]
    roots = list({id(root): root for root in found}.values())
    learning = {id(owned[key]): owned[key] for key in held if key in owned}
    shapes = [_shapes(root) for root in learning.values()]
    idle = [root for root in roots if id(root) not in learning and _is_training(root) and _shapes(root) not in shapes]
    labels = label_models(idle, is_alone=False) if idle else {}
    return {label: sum(one is root for one in found) for label, root in zip(labels, idle, strict=True)}


def _is_training(root: nn.Module) -> bool:
    return all(part.training for _, part in named_parts(root))


def _shapes(root: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for _, parameter in named_parameters(root)]
