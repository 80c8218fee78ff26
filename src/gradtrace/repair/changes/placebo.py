"""A change that cannot help but by chance: rows and columns of every weight in another order, W' = P W Q.

P and Q are orthogonal, so that W' has the singular values of W, and the norm of each row and column is still that of
a row and column: no gain, no rank and no symmetry of a layer changes, and of independent weights W' is a fresh draw of
the same initialisation. Whatever a candidate gains by a new draw alone, this gains too. It is drawn twice: the network
as it came may be an unlucky draw itself, and two draws of one law are alike by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradtrace.records.change import Change
from gradtrace.repair.changes.kind import Kind

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

TITLES = (
    "Placebo: rows and columns of each weight in another order, a fresh draw of the same initialisation.",
    "Placebo, drawn once more.",
)


def propose(situation: Situation) -> list[Change]:
    """Two draws of every weight matrix."""
    names = [n for n, p in situation.model.named_parameters() if p.dim() > 1 and p.requires_grad]
    if not names:
        return []
    return [
        Change(
            kind="placebo",
            title=title,
            where=tuple(names),
            reason="what a new draw alone brings",
            numbers=(("stream", float(stream)),),
            loses_weights=True,
        )
        for stream, title in enumerate(TITLES)
    ]


def apply(change: Change, twin: Twin) -> None:
    """Permute; the optimizer forgets what it knew of them."""
    # seed by seed, one number for each draw: of a seed the generator of the CPU takes the lowest 32 bits alone
    twin.generator.manual_seed(twin.generator.initial_seed() * len(TITLES) + int(change.number("stream")))
    parameters = [twin.model.get_parameter(name) for name in change.where]
    with torch.no_grad():
        for name, parameter in zip(change.where, parameters, strict=True):
            owner = twin.model.get_submodule(name.rpartition(".")[0])
            padding = owner.padding_idx if isinstance(owner, nn.Embedding | nn.EmbeddingBag) else None
            parameter.copy_(reordered(parameter, block_of(owner, parameter), twin.generator, padding))
    twin.forget(parameters)


def block_of(owner: nn.Module, weight: Tensor) -> int:
    """Rows that belong together, of maps that are stored in one: gates; queries, keys and values."""
    block = getattr(owner, "hidden_size", weight.shape[1])
    return block if isinstance(block, int) and block > 0 and weight.shape[0] % block == 0 else weight.shape[0]


def reordered(weight: Tensor, block: int, generator: torch.Generator, padding: int | None = None) -> Tensor:
    """P W Q, where P keeps every row within its block; that of the padding is no draw, and stays where it is.

    >>> weight = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    >>> new = reordered(weight, 3, torch.Generator().manual_seed(1))
    >>> bool((new == weight).all()), torch.linalg.svdvals(new).tolist()
    (False, [3.0, 2.0, 1.0])
    """
    blocks = range(0, weight.shape[0], block)
    rows = torch.cat([start + torch.randperm(block, generator=generator) for start in blocks])
    if padding is not None:
        rows[rows == padding] = rows[padding].clone()
        rows[padding] = padding
    columns = torch.randperm(weight.shape[1], generator=generator)
    return weight[rows.to(weight.device)][:, columns.to(weight.device)]


KIND = Kind(propose, apply)
