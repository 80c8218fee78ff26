"""Everything of the user's that a trial must not touch, as values that compare equal bit for bit."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch


def snapshot(setup):
    """Weights, buffers, gradients, mode, hooks, attributes, optimizer, batches and random state."""
    model = setup.model
    optimizers = [setup.optimizer] if setup.optimizer is not None else []
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "identities": [id(m) for m in model.modules()] + [id(p) for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [(name, type(m), m.training) for name, m in model.named_modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "optimizer": [copy.deepcopy(o.state_dict()) for o in optimizers],
        "held": [[id(p) for g in o.param_groups for p in g["params"]] for o in optimizers],
        "step hooks": [len(o._optimizer_step_pre_hooks) for o in optimizers],
        "batches": copy.deepcopy(setup.batches),
        "random": (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()),
    }


def assert_same(now, before, path=""):
    """Recursively, tensors bit for bit (NaN equals NaN)."""
    assert type(now) is type(before), path
    if isinstance(before, torch.Tensor):
        assert torch.equal(now, before) or (now.isnan() & before.isnan()).any(), path
    elif isinstance(before, np.ndarray):
        assert np.array_equal(now, before), path
    elif isinstance(before, dict):
        assert now.keys() == before.keys(), path
        for key in before:
            assert_same(now[key], before[key], f"{path}.{key}")
    elif isinstance(before, list | tuple):
        assert len(now) == len(before), path
        for i, (a, b) in enumerate(zip(now, before, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    else:
        assert now == before, path
