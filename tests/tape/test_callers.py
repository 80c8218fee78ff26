"""Does a warning that a traced call raises show the line that it shows without us, and as often?"""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.recurrence.uses import Watched
from gradtrace.runner.frames import clean
from gradtrace.tape.callers import MARK
from gradtrace.tape.unroll import unrolled

if TYPE_CHECKING:
    from collections.abc import Callable


class Warns(nn.Module):
    """Warnings of its caller's line (`torch.std`), of the line above (dropout, loss), and of five lines above."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.softmax = nn.Linear(4, 4), nn.Softmax()
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x):
        hidden = self.drop(self.layer(x))
        hidden = F.dropout2d(hidden, 0.1)
        shares = F.softmax(hidden) + self.softmax(hidden)  # one function, two places
        return shares + 0 * F.tanh(hidden) + 0 * torch.tensor(shares.detach())

    def loss(self, x):
        output = self(x)
        return F.mse_loss(output, torch.zeros(4)) + 0 * torch.std(output[:1, :1].detach()).nan_to_num()


def loss_of(model, batch):
    return model.loss(batch)


def shown(run: Callable[[], object]) -> list[tuple[str, int, str]]:
    """Where each warning was shown, under the default filter: once for each line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run()
    return [(one.filename, one.lineno, str(one.message)) for one in caught]


def bare(model: Warns, batch: torch.Tensor) -> list[tuple[str, int, str]]:
    return shown(lambda: [loss_of(model, batch) for _ in range(2)])


def test_the_lines_are_those_without_a_trace_and_each_is_shown_once():
    model, batch = Warns(), torch.randn(8, 4)
    expected = bare(model, batch)
    assert len(expected) == 7
    traced = shown(lambda: [gradtrace.trace(model, loss_of, batch), loss_of(model, batch)])
    assert traced == expected


def test_the_lines_are_those_without_a_mode_that_unrolls():
    model, batch = Warns(), torch.randn(8, 4)
    expected = bare(model, batch)
    mode = Watched(model)

    def run() -> None:
        with mode:
            loss_of(model, batch)
        loss_of(model, batch)

    assert shown(run) == expected


def test_the_frames_made_again_are_no_part_of_a_cleaned_traceback():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="shapes") as caught, unrolled(model):
        model(torch.ones(2, 3))
    assert MARK in names_of(caught.value)
    clean(caught.value)
    assert MARK not in names_of(caught.value)
    assert names_of(caught.value)[-1] == "forward"  # of nn.Linear


def names_of(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_a_users_own_function_is_a_caller_whatever_its_name():
    def inner(x):
        return F.dropout2d(x, 0.1)

    model, batch = Warns(), torch.randn(8, 4)
    expected = shown(lambda: inner(batch))
    with Watched(model):
        assert shown(lambda: inner(batch)) == expected


def test_shapes_broadcast_as_in_torch():
    for pair in [((8, 1), (8,)), ((), (3,)), ((2, 1, 4), (3, 1)), ((0, 1), (1, 5)), ((4,), (4,))]:
        shapes = [torch.Size(shape) for shape in pair]
        assert broadcast_shape(*shapes) == torch.broadcast_shapes(*shapes)
    with pytest.raises(RuntimeError, match=r"\(2,\), \(3,\)"):
        broadcast_shape(torch.Size([2]), torch.Size([3]))


def test_a_hook_of_the_users_module_warns_of_the_line_that_called_backward():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].register_full_backward_hook(lambda _module, _passed, _received: None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    lines = []

    def train() -> None:
        for _ in range(3):
            lines.append(sys._getframe().f_lineno + 1)
            model(torch.randn(8, 4)).mean().backward()
            optimizer.step()

    with gradtrace.watch(model, optimizer, every=1):
        found = shown(train)
    assert [(file, line) for file, line, text in found if "backward hook" in text] == [(__file__, lines[0])]
