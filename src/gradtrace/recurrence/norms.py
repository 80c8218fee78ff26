"""One backward pass of the loss: |L'(h_t)| for every t of every recurrence, and the factors of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.errors import InputError
from gradtrace.records.time import Chain
from gradtrace.recurrence.tap import Tap, norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradtrace.recurrence.chain import Place, Recurrence


def chains_of(
    parameters: Sequence[Tensor],
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor] | None,
    found: Sequence[Recurrence],
) -> tuple[list[Chain], float]:
    """Every chain's norms, and that of the gradient of all `parameters`, from a loss or from outputs' gradients."""
    groups: list[tuple[Place, ...]] = []
    places: list[dict[str, Any]] = []
    for one in found:
        place: dict[str, Any] = {}
        for name, parts in _groups_of(one).items():
            place[name] = range(len(groups), len(groups) + len(parts))
            groups += parts
        place["linear"] = len(groups)  # of several weights: norms are joined, not summed
        groups += [(y,) for ys in one.linear for y in ys]
        places.append(place)
    sources = [*parameters, *(start for one in found for start in one.starts)]
    with Tap(groups) as tap:
        try:
            norms, gradients = tap.norms(outputs, cotangents, sources)
        except RuntimeError as error:
            raise InputError(
                f"the backward pass raised {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
    received = [float(norm(g)) for g in gradients[: len(parameters)] if g is not None]
    total = math.sqrt(math.fsum(x * x for x in received))
    return [_chain(one, place, norms) for one, place in zip(found, places, strict=True)], total


def _groups_of(one: Recurrence) -> dict[str, list[tuple[Place, ...]]]:
    return {
        "hidden": [(state.h,) for state in one.states],
        "cell": [(state.c,) for state in one.states if state.c is not None],
        "recurrent": list(one.fed),
        "carried": [(x,) for x in one.carried],
        "read": [(x,) for x in one.read],
    }


def _chain(one: Recurrence, place: dict[str, Any], norms: np.ndarray[Any, Any]) -> Chain:
    def pick(name: str) -> tuple[float, ...]:
        return tuple(float(norms[i]) for i in place[name])

    linear, index = [], place["linear"]
    for ys in one.linear:
        linear.append(float(np.sqrt(np.sum(norms[index : index + len(ys)] ** 2))))
        index += len(ys)
    matrix = one.weight
    return Chain(
        module=one.module, module_type=one.module_type, kind=one.kind, layer=one.layer,
        direction="backward" if one.reverse else "forward", call=one.call,
        hidden=pick("hidden"), linear=tuple(linear), recurrent=pick("recurrent"), cell=pick("cell"),
        carried=pick("carried"), read=pick("read"), cuts=tuple(sorted(one.cuts)), detached_start=one.detached_start,
        singular_value=math.nan if matrix is None else largest_singular_value(matrix),
        num_weights=len(one.linear[0]) if one.linear else 1, inputs=one.inputs,
    )  # fmt: skip


def largest_singular_value(matrix: Tensor) -> float:
    """The spectral norm, in float64; NaN for a matrix that is not finite."""
    values = matrix.detach().double()
    return float(torch.linalg.matrix_norm(values, 2)) if bool(torch.isfinite(values).all()) else math.nan
