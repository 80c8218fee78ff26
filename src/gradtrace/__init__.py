"""gradtrace looks inside the backward pass: where does the loss gradient vanish or explode, why, and what to change?"""

import sys
from typing import TYPE_CHECKING, Any

# pip refuses it, PYTHONPATH does not. This file must be read by any Python 3 (no import of annotations, of 3.7).
if sys.version_info < (3, 10):  # noqa: UP036
    sys.stderr.write("gradtrace needs Python 3.10 or newer, and this is %d.%d\n" % sys.version_info[:2])  # noqa: UP031
    raise SystemExit(2)

if TYPE_CHECKING:
    from gradtrace.audit.initialise import init_critical_
    from gradtrace.audit.predict import predict
    from gradtrace.checkup.check import check
    from gradtrace.measure.trace import trace
    from gradtrace.monitor.watch import watch
    from gradtrace.recurrence.lyapunov import lyapunov
    from gradtrace.recurrence.through_time import through_time
    from gradtrace.repair.fix import fix
    from gradtrace.runs.loading import load

__version__ = "0.2.0"
__all__ = ["check", "fix", "init_critical_", "load", "lyapunov", "predict", "through_time", "trace", "watch"]

_HOMES = {
    "check": "gradtrace.checkup.check",
    "fix": "gradtrace.repair.fix",
    "init_critical_": "gradtrace.audit.initialise",
    "predict": "gradtrace.audit.predict",
    "lyapunov": "gradtrace.recurrence.lyapunov",
    "through_time": "gradtrace.recurrence.through_time",
    "trace": "gradtrace.measure.trace",
    "load": "gradtrace.runs.loading",
    "watch": "gradtrace.monitor.watch",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import gradtrace`` costs no second of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gradtrace' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names: they are not here before they are used."""
    return sorted([*__all__, "__version__"])


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext gradtrace``: the cell magic ``%%gradtrace``."""
    from importlib import import_module

    cell = import_module("gradtrace.commands.cell")
    shell.register_magic_function(cell.magic(shell), "line_cell", cell.NAME)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext gradtrace``."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("gradtrace", None)
