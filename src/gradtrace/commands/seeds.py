"""One seed for every generator that a network may draw from."""

from __future__ import annotations


def seed_all(number: int) -> None:
    """Python's, NumPy's and torch's generators."""
    import random

    import numpy as np
    import torch

    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
