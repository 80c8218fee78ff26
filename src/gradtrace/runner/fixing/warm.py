"""Importing torch takes longer than many a trial: a process that has done so divides, and the script runs in the half.

Only where that is the same: a script that sets variables of the environment before it imports torch, or that computes
on an accelerator, gets a fresh process each time.

Line by line: "ready" goes out, an order's file, folder and output come in, the new process's number and then its status
go out.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

from gradtrace.runner.fixing.child import Following
from gradtrace.runner.fixing.exchange import Order, read

_NEEDED = ("torch", "torch._dynamo", "gradtrace.monitor.watch", "gradtrace.runner.fixing.living",
           "gradtrace.runner.fixing.making", "gradtrace.diagnosis.profile", "gradtrace.repair.fix")  # fmt: skip


def serve() -> None:
    """Until nothing comes in any more."""
    for name in _NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never touched again is never copied
    _tell("ready")
    for line in sys.stdin:
        order, place, output = json.loads(line)
        process = os.fork()
        if not process:
            _become(place, output)
            told = read(Path(order))
            assert isinstance(told, Order)
            Following(told, Path(order).with_suffix(".answer")).run()
        _tell(process)
        _tell(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _tell(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def _become(place: str, output: str) -> None:
    """A process of its own, as far as a script can tell."""
    os.setsid()
    os.chdir(place)
    os.environ["PWD"] = place
    streams = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in zip((0, 1, 2), (streams[0], streams[1], streams[1]), strict=True):
        os.dup2(source, target)


if __name__ == "__main__":
    serve()
