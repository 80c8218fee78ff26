"""Changes of attention and of norms: by measured scales, at the line, and the edit does what was tried."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.change import Edit, SourceEdit
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.repair import Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.changes import norm, transformer
from gradtrace.repair.no_patch import NoPatchError
from gradtrace.repair.situation import Situation

D = 16


class Attention(nn.Module):
    def __init__(self, *, fused, gain):
        super().__init__()
        self.qk, self.head = nn.Linear(D, 2 * D, bias=False), nn.Linear(D, 2)
        self.fused = fused
        nn.init.normal_(self.qk.weight, 0.0, gain / D**0.5)

    def forward(self, x):
        q, k = self.qk(x).chunk(2, -1)
        return self.head((F.scaled_dot_product_attention(q, k, x) if self.fused else written_out(q, k, x)).mean(1))


def written_out(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def attention(*, fused, gain):
    torch.manual_seed(0)
    model = Attention(fused=fused, gain=gain)
    batches = [(torch.randn(16, 24, D), torch.randint(2, (16,)))]
    diagnosis = gradtrace.check(model, loss_fn, batches)
    assert Cause.ATTENTION_SATURATION in [finding.cause for finding in diagnosis.findings]
    return Situation(model, loss_fn, batches, [], diagnosis)


def applied(change, here):
    return Trial(change.title, Role.CANDIDATE, (change,)).apply(here.model, here.loss_fn)


def one_hot(model, loss_fn_, here):
    ops = gradtrace.trace(model, loss_fn_, here.batches[0]).ops
    (frac,) = [op.activation.saturated_frac for op in ops if op.factor.value == "attention" and op.activation]
    return frac


def test_queries_and_keys_are_normalised_where_the_fused_attention_is_called():
    here = attention(fused=True, gain=6.0)
    change = next(c for c in transformer.KIND.propose(here) if "QK-norm" in c.title)
    model, changed, _ = applied(change, here)
    q, k = model.qk(here.batches[0][0]).detach().chunk(2, -1)
    by_hand = F.scaled_dot_product_attention(F.rms_norm(q, (D,)), F.rms_norm(k, (D,)), here.batches[0][0])
    assert changed(model, here.batches[0]).item() == pytest.approx(
        F.cross_entropy(model.head(by_hand.mean(1)), here.batches[0][1]).item(), rel=1e-5
    )
    assert one_hot(here.model, here.loss_fn, here) > 0.5


def test_the_edit_of_the_fused_call():
    cst = pytest.importorskip("libcst")
    from gradtrace.repair.edits import edit_calls

    text = "torch.nn.functional.rms_norm({x}, ({x}).shape[-1:])"
    edit = SourceEdit(Edit.FIRST_TWO, "scaled_dot_product_attention", "net.py:1", text)
    line = "y = F.scaled_dot_product_attention(q, k.mT, v, is_causal=True)  # causal\n"
    told = edit_calls(cst.parse_module(line), [(1, edit)], {}).code
    norms = "torch.nn.functional.rms_norm(q, q.shape[-1:]), torch.nn.functional.rms_norm(k.mT, k.mT.shape[-1:])"
    assert told == f"y = F.scaled_dot_product_attention({norms}, v, is_causal=True)  # causal\n"
    for unclear in ("f(*qkv)", "f(q, key=k, value=v)", "f(q)"):
        line = unclear.replace("f(", "scaled_dot_product_attention(")
        with pytest.raises(NoPatchError, match="not written out"):
            edit_calls(cst.parse_module(f"{line}\n"), [(1, edit)], {})


def test_a_missing_scale_is_put_in_where_the_softmax_is_written_out():
    here = attention(fused=False, gain=2.0)
    change = next(c for c in transformer.KIND.propose(here) if "is missing" in c.title)
    assert 1.0 / change.number("factor") == pytest.approx(math.sqrt(D), rel=0.3)
    model, changed, _ = applied(change, here)
    assert one_hot(model, changed, here) < one_hot(here.model, here.loss_fn, here) / 2
    assert not any("QK-norm" in c.title for c in transformer.KIND.propose(here))  # no fused call to be edited


def test_within_torch_s_own_attention_nothing_is_normalised():
    torch.manual_seed(0)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(D, 2, batch_first=True), nn.Linear(D, 2)
            nn.init.normal_(self.attention.in_proj_weight, 0.0, 8.0 / D**0.5)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    batches = [(torch.randn(16, 24, D), torch.randint(2, (16,)))]
    model = Own()
    here = Situation(model, loss_fn, batches, [], gradtrace.check(model, loss_fn, batches))
    titles = [change.title for change in transformer.KIND.propose(here)]
    assert titles
    assert not any("QK-norm" in title for title in titles)


# ------------------------------------------------------------------------------------------------------------- norms


def deep(layers, x):
    torch.manual_seed(0)
    batches = [(x, torch.randint(2, (x.shape[0],)))]
    model = nn.Sequential(*layers)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]).flatten(2).mean(-1) if x.dim() > 2 else model(batch[0]), batch[1])

    traces = gradtrace.check(model, loss, batches).traces
    finding = Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("0",), Severity.CRITICAL, "told", ())
    return Situation(model, loss, batches, [torch.optim.SGD(model.parameters(), lr=0.1)], Diagnosis((finding,), traces))


def mlp(width=8):
    return [nn.Linear(D, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)]


def kinds(here):
    return [change.word("what") for change in norm.KIND.propose(here)]


def test_which_norms_are_tried():
    assert kinds(deep(mlp(), torch.randn(32, D))) == ["layer", "batch", "rms"]
    assert kinds(deep(mlp(), torch.randn(4, D))) == ["layer", "rms"]  # too few samples for a batch's statistics
    evaluated = deep(mlp(), torch.randn(32, D))
    evaluated.model.eval()
    assert kinds(evaluated) == ["layer", "rms"]  # which it has none of then
    conv = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1)]
    assert kinds(deep(conv, torch.randn(16, 3, 8, 8))) == ["layer", "batch"]
    assert kinds(deep([*mlp(), nn.LayerNorm(2)], torch.randn(32, D))) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_lines_put_in_what_was_tried_and_the_optimizer_trains_it(place):
    here = deep(mlp(), torch.randn(32, D))
    change = norm.KIND.propose(here)[place]
    model, _, optimizer = Trial("", Role.CANDIDATE, (change,)).apply(here.model, here.loss_fn, here.optimizers[0])
    coded = deep(mlp(), torch.randn(32, D))
    exec(change.code, {"torch": torch, "model": coded.model, "optimizer": coded.optimizers[0]})
    assert [str(m) for m in model.modules()] == [str(m) for m in coded.model.modules()]
    for one, made in ((optimizer, model), (coded.optimizers[0], coded.model)):
        assert {id(p) for g in one.param_groups for p in g["params"]} == {id(p) for p in made.parameters()}


def test_an_rmsnorm_is_refused_behind_a_convolution():
    here = deep(mlp(), torch.randn(32, D))
    change = next(c for c in norm.KIND.propose(here) if c.word("what") == "rms")
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Tanh())
    with pytest.raises(InputError, match="no channel of a convolution"):
        Trial("", Role.CANDIDATE, (replace(change, where=("0",)),)).apply(model, here.loss_fn)
