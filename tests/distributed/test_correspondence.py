"""Several ranks in the threads of one process: who comes, who does not, and what is said of it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gradtrace.distributed import channel, correspondence
from gradtrace.distributed.correspondence import Correspondence
from gradtrace.distributed.layout import agree
from gradtrace.distributed.placement import PLAIN
from gradtrace.distributed.report.given import Given, Shares
from gradtrace.distributed.world import World
from gradtrace.records.run import WatchedParameter
from gradtrace.tape import private

WITHIN_S = 60.0
COLUMNS = (WatchedParameter("a", (2,), "float32"), WatchedParameter("b", (2,), "float32"))


@pytest.fixture
def ranks():
    begun = []

    def begin(size, come=None, store=True, columns=None, buffers=None):
        shared = dist.HashStore()
        told: list[str] = []
        for rank in range(size) if come is None else come:
            own = dist.PrefixStore("all", shared) if store else None
            one = Correspondence(
                World(rank, size, own, "gradtrace/0"),
                COLUMNS if columns is None else columns[rank],
                lambda: 7,
                lambda: None,
                told.append,
                () if buffers is None else buffers[rank],
            )
            one.begin()
            begun.append(one)
        return begun, told

    yield begin
    for one in begun:
        one.abandon()


def wait_for(condition):
    until = time.monotonic() + WITHIN_S
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    assert condition()


def given(*norms):
    vector = np.array(norms, np.float32)
    return Given(1.0, vector, of_gradients=Shares.of([PLAIN] * len(norms)))


def test_reports_come_back_in_order(ranks):
    (first, second), _ = ranks(2)
    for step in range(5):
        first.give(step, given(3.0, 1.0))
        second.give(step, given(3.0, 1.0) if step != 2 else None)
    wait_for(lambda: len(first._incoming) == 5)
    arrived = list(first.arrived())
    assert [step for step, _ in arrived] == list(range(5))
    assert [merged.is_complete for _, merged in arrived] == [True, True, False, True, True]
    assert arrived[0][1].gradients.tolist() == [3.0, 1.0]
    assert first.is_idle


def test_columns_of_others_come_behind_those_of_rank_0(ranks):
    b, c = COLUMNS[1], WatchedParameter("c", (5,), "float32")
    other = WatchedParameter("a", (9,), "float32")
    (first, second, third), _ = ranks(3, columns=[COLUMNS, (c, b), (other,)])
    first.give(0, given(3.0, 1.0))
    second.give(0, given(7.0, 1.0))
    third.give(0, given(2.0))
    wait_for(lambda: len(first._incoming) == 1)
    ((_, merged),) = first.arrived()
    assert [column.name for column in first.layout.columns] == ["a", "b", "c", "a (rank 2)"]
    assert merged.gradients.tolist() == [3.0, 1.0, 7.0, 2.0]
    assert not merged.differ.any()


def test_buffers_stand_behind_the_parameters_of_all(ranks):
    mask, table = WatchedParameter("mask", (2,), "float32"), WatchedParameter("table", (3,), "float32")
    c = WatchedParameter("c", (5,), "float32")
    (first, second), _ = ranks(2, columns=[COLUMNS, (c,)], buffers=[(table, mask), (mask, table)])
    for one, norms, sums in ((first, (3.0, 1.0), (5, 6, 7, 8)), (second, (2.0,), (4, 8, 9))):
        vector = np.array(norms, np.float32)
        shares = Shares.of([PLAIN] * len(norms))
        one.give(0, Given(1.0, vector, sums=np.array(sums, np.float32), of_gradients=shares))
    wait_for(lambda: len(first._incoming) == 1)
    ((_, merged),) = first.arrived()
    assert first.layout.buffers == ("table", "mask")
    assert merged.gradients.tolist() == [3.0, 1.0, 2.0]
    assert merged.parted.tolist() == [False, False, False]
    assert merged.parted_buffers.tolist() == [True, False]


def test_versions_are_those_of_the_first_rank_that_has_each():
    class Told:
        def tables(self, own, _):
            return [(0, own), (2, own.replace(torch.__version__.encode(), b"1.0")), (3, own.replace(b"[2]", b"[3]"))]

    assert agree(Told(), COLUMNS).versions == ((0, torch.__version__), (2, "1.0"))


def test_a_rank_that_does_not_come_is_named(ranks, monkeypatch):
    monkeypatch.setattr(channel.Channel.join, "__defaults__", (0.3,))
    (first, _), _ = ranks(4, come=(0, 2))
    wait_for(lambda: first.fault is not None)
    assert first.fault == "ranks 1, 3 did not come within 0 s"
    assert first.is_idle


def test_a_torch_that_does_not_show_its_store(ranks):
    (first, *_), _ = ranks(2, store=False)
    wait_for(lambda: first.fault is not None)
    assert first.fault == "this torch does not show what its ranks share"


def test_a_torch_without_gloo(ranks, monkeypatch):
    found = private.find
    monkeypatch.setattr(private, "find", lambda name: None if name.endswith("ProcessGroupGloo") else found(name))
    (first, *_), _ = ranks(2)
    wait_for(lambda: first.fault is not None)
    assert first.fault == "this torch was built without gloo"


def test_a_rank_that_leaves_ends_the_reports(ranks):
    (first, second), _ = ranks(2)
    wait_for(lambda: first.layout is not None and second.layout is not None)
    second.abandon()
    first.give(0, given(1.0, 1.0))
    wait_for(lambda: first.fault is not None)
    assert first.fault.startswith("the connection to the other ranks is lost (")
    assert first.is_idle


def test_a_rank_that_gives_no_sign_of_life_is_missed_once(ranks, monkeypatch):
    monkeypatch.setattr(correspondence, "ALIVE_EVERY_S", 0.02)
    monkeypatch.setattr(correspondence, "SILENT_S", 0.3)
    monkeypatch.setattr(correspondence, "is_over", lambda: False)
    (first, second), told = ranks(2)
    wait_for(lambda: second._alive_at > 0.0)
    monkeypatch.setattr(second, "_idle", lambda: None)
    first.give(0, given(1.0, 1.0))
    wait_for(lambda: told)
    time.sleep(0.5)
    assert told == ["rank 1 has fallen silent: the last sign of it was at its step 7"]


def test_a_word_is_heard_by_who_asks(ranks):
    (first, second), _ = ranks(2)
    second.leave_word("nonfinite", "at step 3")
    first.ask("nonfinite")
    wait_for(lambda: first.heard)
    assert first.heard == {1: "at step 3"}


def test_nobody_waits_at_the_end(ranks):
    (first, _), _ = ranks(2)
    wait_for(lambda: first.layout is not None)
    first.give(0, given(1.0, 1.0))
    begun = time.monotonic()
    first.abandon()
    first.abandon()
    assert time.monotonic() - begun < 30.0
