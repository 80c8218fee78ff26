"""What one test compiles is none of the next one's business: a watch takes no whole traces where anything is."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    if "torch._dynamo" in sys.modules:
        import torch

        torch._dynamo.reset()
