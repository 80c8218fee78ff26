"""Lightning asks every installed package for callbacks: there is one where ``GRADTRACE_LIGHTNING`` names a run's file.

With ``GRADTRACE_LIGHTNING=run.db python train.py`` no line of the script changes.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "GRADTRACE_LIGHTNING"


def callbacks() -> list[Any]:
    """The callback, or none; asked at every Trainer."""
    path = os.environ.get(VARIABLE)
    if not path:
        return []
    from gradtrace.integrations.lightning import GradTraceCallback

    return [GradTraceCallback(path=path)]
