"""What a place is called: class and shape are told, and a number is no name."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import gradtrace
from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.measure.ledger import ledger
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def trace_of(model):
    return gradtrace.trace(
        model, lambda m, x: F.cross_entropy(m(x), torch.zeros(5, dtype=torch.long)), torch.ones(5, 4)
    )


def test_numbers_get_class_and_shape():
    names = Names(trace_of(nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))))
    assert names.told("2") == "model[2] (Linear)"
    assert names.told("1", "net.py:3") == "model[1] (Sigmoid, net.py:3)"
    assert names.labels("0") == ("0 Linear 8x4", "0 Linear", "0")
    assert names.listed(("2", "1", "0", "0"), 2) == "model[2] (Linear), model[1] (Sigmoid) and 2 more"
    assert Names().told("head") == "head"


def test_a_row_of_a_weight_that_another_module_holds_is_named_by_it():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(3, 8))])

        def forward(self, x):
            return F.linear(torch.relu(F.linear(x, self.weights[0])), self.weights[1])

    trace = trace_of(Listed())
    rows = [Names(trace).labels(row.module, row.parameters) for row in ledger(trace)]
    assert rows[1:] == [
        ("weights.1 3x8", "weights.1", "weights"),
        ("weights.0 8x4", "weights.0", "weights"),
    ]


def test_a_layer_whose_forward_is_called_by_itself_is_named():
    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.flows = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 3)])

        def forward(self, x):
            for flow in self.flows:
                x = torch.tanh(flow.forward(x))
            return x

    trace = trace_of(Flow())
    rows = ledger(trace)
    assert [row.module for row in rows if row.parameters] == ["flows.1", "flows.0"]
    assert Names(trace).labels(rows[-1].module, rows[-1].parameters) == (
        "flows.0 Linear 8x4",
        "flows.0 Linear",
        "flows.0",
    )


def test_a_weight_with_a_parametrization_is_its_module_s():
    model = nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.Sigmoid(), spectral_norm(nn.Linear(8, 3)))
    trace = trace_of(model)
    assert [row.module for row in ledger(trace)] == ["loss", "2", "0"]
    ops = [op for op in trace.ops if op.site.module in ("0", "2") and op.weights]
    assert {place(op, Paths(trace)) for op in ops} == {"0", "2"}
    assert Names(trace).labels("2", ("2.parametrizations.weight.original",))[0] == "2 ParametrizedLinear 3x8"


def test_a_function_is_named_by_what_it_follows():
    trace = trace_of(Functional())
    relu = next(op for op in trace.ops if op.activation is not None and op.activation.function == "relu")
    told = told_op(relu, trace, Paths(trace))
    assert told.startswith("relu (")
    assert told.endswith(") behind fc1 (Linear)")


def test_rows_of_one_module_with_several_matrices_are_told_apart():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.scale = nn.RNN(4, 3), nn.Parameter(torch.eye(3))

        def forward(self, x):
            return self.rnn(x[None].expand(6, -1, -1))[0][-1] @ self.scale

    trace = trace_of(Last())
    rows = [Names(trace).labels(row.module, row.parameters) for row in ledger(trace)]
    assert [whole for whole, *_ in rows] == [
        "loss",
        "model 3x3",
        "rnn RNN weight_hh_l0 3x3",
        "rnn RNN weight_ih_l0 3x4",
    ]
    assert rows[-1][1:] == ("rnn weight_ih_l0", "rnn")
    assert Names(trace).labels("rnn")[0] == "rnn RNN"
