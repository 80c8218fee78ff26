"""Same seeds, same threads and patient Hypothesis for every test."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("gradtrace", deadline=None, derandomize=True)
settings.load_profile("gradtrace")

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _fixed_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
