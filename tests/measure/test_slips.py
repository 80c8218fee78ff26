"""The commonest slips of a new user: each gets its hint, in the sentence that says what went wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError

X, Y = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


SLIPS = {
    "a criterion": (nn.CrossEntropyLoss(), [(X, Y)], r"CrossEntropyLoss.*lambda model, batch: criterion\(model"),
    "a functional one": (F.cross_entropy, [(X, Y)], r"torch's cross_entropy: write lambda model, batch"),
    "one batch": (loss_fn, (X, Y), r"looks like one batch \(x, y\): give a list of them, \[\(x, y\)\]"),
    "dicts": (
        loss_fn,
        [{"pixels": X, "label": Y}],
        "dict with 'pixels', 'label': take its parts by name",
    ),
    "a tuple": (lambda m, b: (loss_fn(m, b), m(b[0])), [(X, Y)], "returned tuple of 2: return its first part"),
    "a dict": (lambda m, b: {"loss": loss_fn(m, b)}, [(X, Y)], "returned dict: return its 'loss' alone"),
    "an output": (lambda m, b: SimpleNamespace(loss=loss_fn(m, b)), [(X, Y)], r"return its \.loss"),
    "nothing": (lambda m, b: None, [(X, Y)], "returned NoneType: is there a return at its end"),
    "a number": (lambda m, b: loss_fn(m, b).item(), [(X, Y)], r"returned float: leave out \.item\(\)"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_slips(name):
    mistaken, batches, message = SLIPS[name]
    with pytest.raises(InputError, match=message) as caught:
        gradtrace.check(nn.Linear(4, 3), mistaken, batches)
    assert "\n" not in str(caught.value)


def test_two_batches_of_one_shape_are_no_slip():
    def raising(model, x):
        raise ValueError("mine")

    with pytest.raises(InputError, match=r"ValueError: mine \(at [^;]*\)$"):
        gradtrace.check(nn.Linear(4, 3), raising, [X, X])


def test_a_class_is_no_module_of_it():
    with pytest.raises(InputError, match="but it is the class Linear: make one of it"):
        gradtrace.check(nn.Linear, loss_fn, [(X, Y)])
    with pytest.raises(InputError, match="but it is the class Linear: make one of it"):
        gradtrace.watch(nn.Linear)


def test_a_watch_takes_no_loss():
    with pytest.raises(InputError, match="but it is function: the loss stays in the loop that is watched"):
        gradtrace.watch(nn.Linear(4, 3), loss_fn)
    with pytest.raises(InputError, match=r"optimizer must be a torch.optim.Optimizer, but it is float$"):
        gradtrace.watch(nn.Linear(4, 3), 0.1)
