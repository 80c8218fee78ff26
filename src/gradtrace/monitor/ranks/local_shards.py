"""Which part of each parameter, and of its gradient, lies on this rank, and of which buffers should all have a copy?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gradtrace.distributed.bits import bit_sums
from gradtrace.distributed.placement import NOT_KNOWN, placement_of
from gradtrace.distributed.report.given import Shares
from gradtrace.records.run import WatchedParameter
from gradtrace.tape.gathered import gathers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradtrace.monitor.ranks.data_parallel import DataParallel
    from gradtrace.monitor.watched import Watched

MOST_BUFFERS = 256
"""That are compared, of a model: a sum of its bits for each."""

FLAT = (
    "FullyShardedDataParallel does not say which part lies where (fully_shard does): norms are not known, and no whole "
    "traces are taken"
)


class LocalShards:
    """Of the watched parameters; the ranks agreed on the first `num` of them."""

    def __init__(self, watched: Watched, data_parallel: DataParallel) -> None:
        self._watched, self._data_parallel = watched, data_parallel
        flat = _flat_parameters(watched)
        self._placements = [NOT_KNOWN if id(p) in flat else placement_of(p) for p in watched.parameters]
        """Of weights."""
        self._gathered = _gathered_parameters(watched)
        self.is_flat = bool(flat)
        """Whether FSDP's first version takes care of any."""
        self.num = len(self._placements)
        self._of_gradients = list(self._placements)
        self.of_weights = self.of_gradients = Shares.of(self._placements)
        self._buffers = _buffers(watched)
        self.is_part = self.of_weights.is_part
        """[columns], those that have joined since among them."""

    @property
    def holds_parts(self) -> bool:
        """Whether of any parameter only a part lies here."""
        return any(one.is_part for one in self._placements)

    @property
    def speaks(self) -> bool:
        """Whether ops on any parameter may speak to other ranks: what `fully_shard` spreads is whole when they come."""
        return any(
            one.is_spread and id(parameter) not in self._gathered
            for one, parameter in zip(self._placements, self._watched.parameters, strict=False)
        )

    def join(self) -> None:
        """More is watched than before."""
        fresh = [placement_of(parameter) for parameter in self._watched.parameters[len(self._placements) :]]
        self._placements += fresh
        self._gathered = _gathered_parameters(self._watched)
        self._of_gradients += fresh
        self.is_part = Shares.of(self._placements).is_part

    def look_at_gradients(self) -> None:
        """They are as the optimizer will see them."""
        for i, placement in enumerate(self._of_gradients):
            if placement.is_spread and placement is not NOT_KNOWN:
                gradient = self._watched.parameters[i].grad
                found = placement if gradient is None else placement_of(gradient)
                if found != placement:
                    self._of_gradients[i] = found
                    self.of_gradients = Shares.of(self._of_gradients[: self.num])

    def buffers(self) -> tuple[WatchedParameter, ...]:
        """Those that should be the same on all ranks."""
        known = [(name, module._buffers[key]) for name, module, key in self._buffers]
        return tuple(WatchedParameter(name, tuple(b.shape), str(b.dtype)) for name, b in known if b is not None)

    def sums_of_copies(self) -> Tensor:
        """Of the bits of weights that lie here as a whole, and so do on other ranks, and then of buffers."""
        pairs = zip(self._watched.parameters[: self.num], self._placements, strict=False)
        weights = [None if placement.is_spread else parameter for parameter, placement in pairs]
        sends = self._data_parallel.sends_buffers_of
        buffers = [None if sends(module) else module._buffers.get(key) for _, module, key in self._buffers]
        return bit_sums([*weights, *buffers])


def _buffers(watched: Watched) -> list[tuple[str, nn.Module, str]]:
    """Name, owner and key of those that are no statistics of a rank's own batches."""
    found = []
    for label, model in watched.models.items():
        prefix = f"{label}." if len(watched.models) > 1 else ""
        for path, module in model.named_modules(prefix=""):
            if hasattr(module, "track_running_stats"):  # norms over a batch
                continue
            for key, one in module._buffers.items():
                if one is not None and one.is_floating_point() and not placement_of(one).is_spread:
                    found.append((f"{prefix}{path}{'.' if path else ''}{key}", module, key))
    return found[:MOST_BUFFERS]


def _gathered_parameters(watched: Watched) -> set[int]:
    """Identities of parameters in the care of `fully_shard` alone: the mesh's last axis holds parts, others copies."""
    found = set()
    for model in watched.models.values():
        for module in filter(gathers, model.modules()):
            for parameter in module.parameters():
                *copies, parts = getattr(parameter, "placements", None) or (None,)
                if parts is not None and parts.is_shard() and all(one.is_replicate() for one in copies):
                    found.add(id(parameter))
    return found


def _flat_parameters(watched: Watched) -> set[int]:
    """Identities of parameters in the care of FSDP's first version: they lie here in parts that do not say of what."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if fsdp is None:
        return set()
    modules = (module for model in watched.models.values() for module in model.modules() if isinstance(module, fsdp))
    return {id(parameter) for module in modules for parameter in module.parameters()}
