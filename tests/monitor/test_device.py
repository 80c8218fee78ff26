"""On a device that runs ahead of the host, no step that is measured and not traced waits for it.

The device is torch's "meta", which has no numbers: whoever asks for one fails. What crosses from the host must not make
it wait either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gradtrace
from gradtrace.monitor.schedule.schedule import Schedule
from gradtrace.monitor.statistics.entries import entries
from gradtrace.monitor.statistics.norms import norms
from gradtrace.monitor.statistics.transfer import Transfer

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
COPIES = ("aten::_to_copy", "aten::copy_")


class Waits(TorchDispatchMode):
    """Ops for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = [{t.device.type for t in tree_leaves(one) if isinstance(t, Tensor)} for one in ((args, kwargs), made)]
        if func.name() in WAITS and devices[0] != {"cpu"}:
            self.seen.append(func.name())
        is_free = (kwargs or {}).get("non_blocking", args[2] if func.name() == COPIES[1] and len(args) > 2 else False)
        if func.name() in COPIES and len(devices[0] | devices[1]) > 1 and not is_free:
            self.seen.append(func.name())
        return made


class Sent(TorchFunctionMode):
    """Numbers that are made on the host and sent, which "meta" does without a copy."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and "meta" in str((kwargs or {}).get("device")):
            self._seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Mixed(nn.Module):
    """Two formats, and a layer that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8, device="meta"), nn.Linear(8, 1, device="meta")
        self.rounded = nn.Linear(8, 8, device="meta", dtype=torch.bfloat16)
        self.unused = nn.Linear(3, 3, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.rounded(self.first(x).relu().bfloat16()).float())
        return out


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is under way to the host, where it never arrives."""
    under_way: list[Any] = []
    monkeypatch.setattr(Transfer, "send", lambda self, what, vectors: under_way.append(vectors))
    monkeypatch.setattr(Transfer, "arrived", lambda self, wait=0: iter(()))
    monkeypatch.setattr(Schedule, "wants_trace", lambda self, step, *, is_urgent: False)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # of "meta" torch does not know
    return under_way


@pytest.fixture
def waits() -> Iterator[list[str]]:
    with Waits() as mode, Sent(mode.seen):
        yield mode.seen


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_no_step_waits(kind: Any, clipped: bool, sent: list[Any], waits: list[str]) -> None:
    model = Mixed()
    optimizer = kind(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.empty(3, 4, device="meta")).square().mean().backward()
            if clipped:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert len(sent) >= 12
    assert not watch.run.notes
    assert waits == []


def test_no_step_of_several_optimizers_waits_whose_weights_are_copied_by_parts(
    sent: list[Any], waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradtrace.monitor.statistics.updates.MIN_COPIED_BYTES", 64)
    model = Mixed()
    optimizers = [torch.optim.SGD(part.parameters(), lr=1e-3) for part in (model.first, model.last)]
    with gradtrace.watch(model, optimizers, budget=10.0) as watch:
        for _ in range(24):
            for optimizer in optimizers:
                optimizer.zero_grad()
                model(torch.empty(3, 4, device="meta")).square().mean().backward()
                optimizer.step()
    assert any(vectors[3] is not None for vectors in sent if len(vectors) > 1), "no weights were looked at"
    assert not watch.run.notes
    assert waits == []


@pytest.mark.parametrize("measure", [norms, entries])
def test_what_is_missing_or_of_another_format_is_no_reason_to_wait(measure: Any, waits: list[str]) -> None:
    full, half = (torch.empty(5, 3, device="meta", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert measure([full, None, half, full]).device.type == "meta"
    assert waits == []


def test_a_number_that_is_asked_for_is_seen(waits: list[str]) -> None:
    with pytest.raises(RuntimeError):
        torch.empty(1, device="meta").item()
    torch.tensor([1]).to("meta")
    torch.tensor([1], device="meta")
    assert waits == ["aten::_to_copy", "tensor"]
