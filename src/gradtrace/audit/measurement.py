"""What do random cotangents at the output become at every value? E[g^2] by as many backward passes as asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording


COTANGENTS = 0x67726164
"""Added to the seed: a user who seeds with the same number must not get cotangents equal to the input."""


def measure(recording: Recording, num_cotangents: int, seed: int = 0) -> list[float]:
    """E[g^2] of every value relative to a unit cotangent at the network's output; NaN where none arrives."""
    edges = [value.edge for value in recording.values]
    roots = [recording.values[index] for index in recording.outputs]
    generator = torch.Generator().manual_seed(seed + COTANGENTS)
    energies, sent = torch.zeros(len(edges), dtype=torch.float64), 0.0
    reached = torch.zeros(len(edges), dtype=torch.bool)
    for _ in range(num_cotangents):
        cotangents = []
        for root in roots:
            noise = torch.randn(root.shape, generator=generator)
            sent += float(noise.square().mean()) / len(roots)
            cotangents.append(noise.to(dtype=root.dtype, device=root.device))
        try:
            found = torch.autograd.grad(
                [root.edge for root in roots], edges, cotangents, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise InputError(
                f"the backward pass raised {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        for index, gradient in enumerate(_given(found)):
            if gradient is not None:
                energies[index] += gradient.detach().float().square().mean(dtype=torch.float64).cpu()
                reached[index] = True
    energies[~reached] = torch.nan
    return (energies / sent).tolist()


def _given(found: Any) -> tuple[torch.Tensor | None, ...]:
    """With ``allow_unused`` gradients may be None, whatever the annotation says."""
    return tuple(found)
