"""All measurements of the lesson, in one go: seconds, always the same numbers, nobody else's random numbers touched."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from gradtrace.lesson.chain import measure_chain
from gradtrace.lesson.measured import Lesson
from gradtrace.lesson.network import cosines, measure, measure_in_time, read, trace_of
from gradtrace.lesson.presets import NETWORKS, RECURRENT, SAMENESS, TRAINING
from gradtrace.lesson.proof import prove
from gradtrace.lesson.training import train

if TYPE_CHECKING:
    from collections.abc import Iterator


def measure_lesson() -> Lesson:
    """Trace and train every network of `presets`."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        trace = trace_of(NETWORKS["sigmoid"])
        networks = {name: measure(setting) for name, setting in NETWORKS.items() if name != "sigmoid"}
        return Lesson(
            chain=measure_chain(),
            networks={"sigmoid": read(trace, NETWORKS["sigmoid"])} | networks,
            trace=trace,
            sameness={name: cosines(NETWORKS[name]) for name in SAMENESS},
            recurrent={name: measure_in_time(setting) for name, setting in RECURRENT.items()},
            training={name: train(setting) for name, setting in TRAINING.items()},
            repair=prove(TRAINING["sigmoid"]),
        )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 32 x 32 are slower on many; and sums come out the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
