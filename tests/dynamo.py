"""What this torch shows of the code that it compiles."""

from __future__ import annotations

import importlib

import pytest

from gradtrace.tape.private import compiled_entrance, compiled_switch

importlib.import_module("torch._dynamo")  # or else there is no entrance yet

SHOWS_ENTRANCE = compiled_entrance() is not None

needs_entrance = pytest.mark.skipif(not SHOWS_ENTRANCE, reason="this torch does not show its entrance")
"""The step is watched all the same, and the trace says what was not seen."""

needs_result = pytest.mark.skipif(compiled_switch() is None, reason="this torch does not show what compiled code gives")
"""The step is watched all the same, and the run says what was not seen."""
