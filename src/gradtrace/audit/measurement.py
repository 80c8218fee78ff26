"""What do random cotangents at the output become at every value? E[g^2] by as many backward passes as asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording

def measure(recording: Recording, num_cotangents: int, seed: int = 0) -> list[float]:
    """E[g^2] of every value relative to a unit cotangent at the network's output; NaN where none arrives."""
    edges = [value.edge for value in recording.values]
    roots = [recording.values[index] for index in recording.outputs]
    generator = torch.Generator().manual_seed(seed)
    energies = torch.zeros(len(edges), dtype=torch.float64)
    reached = torch.zeros(len(edges), dtype=torch.bool)
    for _ in range(num_cotangents):
        cotangents = []
        for root in roots:
            meta = root.edge.node._input_metadata[root.edge.output_nr]
            noise = torch.randn(root.shape, generator=generator)
            cotangents.append(noise.to(dtype=meta.dtype, device=meta.device))
        try:
            found = torch.autograd.grad(
                [root.edge for root in roots], edges, cotangents, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise InputError(f"the backward pass raised {type(error).__name__}: {str(error).splitlines()[0]}") from error
        present = [index for index, gradient in enumerate(found) if gradient is not None]
        squares = [found[index].detach().float().square().mean(dtype=torch.float64).cpu() for index in present]
        energies[present] += torch.stack(squares)
        reached[present] = True
    energies[~reached] = torch.nan
    return (energies / num_cotangents).tolist()
