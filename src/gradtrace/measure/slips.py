"""Which slip was it? The commonest ones get a hint beside torch's own words.

A criterion where a function of (model, batch) is due; one batch where batches are due; dicts unpacked as pairs; a loss
returned with something else, as a number, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

_CRITERION = "write lambda model, batch: criterion(model(batch[0]), batch[1])"


def hint_of_failure(loss_fn: Callable[..., Any], batch: Any) -> str:
    """What to do about a `loss_fn` that raised at this batch, or ''."""
    if isinstance(loss_fn, nn.Module):
        return f"; loss_fn is a {type(loss_fn).__name__}, which takes outputs and targets: {_CRITERION}"
    module = getattr(loss_fn, "__module__", "") or ""
    if module.startswith("torch.nn.functional"):
        return f"; loss_fn is torch's {getattr(loss_fn, '__name__', 'function')}: {_CRITERION}"
    if isinstance(batch, Mapping):
        return (
            f"; the batch is a dict with {', '.join(map(repr, list(batch)[:4]))}: take its parts by name, not by place"
        )
    return ""


def hint_of_batches(batches: Any) -> str:
    """Where one batch was given in place of batches, or ''."""
    if isinstance(batches, (tuple, list)) and len(batches) == 2 and all(isinstance(part, Tensor) for part in batches):
        shapes = {tuple(part.shape[:1]) for part in batches}
        if len(shapes) == 1 and (batches[0].dtype != batches[1].dtype or batches[0].shape != batches[1].shape):
            return "; batches looks like one batch (x, y): give a list of them, [(x, y)]"
    return ""


def hint_of_return(value: Any) -> str:
    """What to return in place of `value`, or ''."""
    if value is None:
        return ": is there a return at its end?"
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return " of " + f"{len(value)}: return its first part alone, if that is the loss"
    if isinstance(value, Mapping) or hasattr(value, "loss"):
        name = next((key for key in ("loss", *value) if key in value), "loss") if isinstance(value, Mapping) else "loss"
        return f": return its {name!r} alone" if isinstance(value, Mapping) else ": return its .loss"
    if isinstance(value, (int, float)):
        return ": leave out .item() and float(), the tensor carries the gradient"
    return ""
