"""To which shape do operands of these shapes broadcast?"""

from __future__ import annotations

from itertools import zip_longest

import torch


def broadcast_shape(*shapes: torch.Size) -> torch.Size:
    """The shape of ``a + b`` for operands of these shapes.

    Not by ``torch.broadcast_shapes``, which imports sympy at its first call: half a second within the user's step, and
    a filter of sympy's own among those of warnings, after which Python shows again what it has shown before.

    Raises:
        RuntimeError: They do not broadcast.

    >>> broadcast_shape(torch.Size([8, 1]), torch.Size([8]))
    torch.Size([8, 8])
    """
    sizes = list[int]()
    for along in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        several = {size for size in along if size != 1}
        if len(several) > 1:
            raise RuntimeError(f"the shapes {', '.join(str(tuple(shape)) for shape in shapes)} do not broadcast")
        sizes.append(several.pop() if several else 1)
    return torch.Size(reversed(sizes))
