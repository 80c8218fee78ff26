"""A repair written out by hand: the unchanged network, a placebo, and a change that helps."""

from __future__ import annotations

from gradtrace.records.change import Change
from gradtrace.records.finding import Diagnosis
from gradtrace.records.repair import Difference, Outcome, Repair, Role, Share, Shares, Trial
from gradtrace.records.vocabulary import Factor


def trained(title, role, ends, **more):
    outcomes = tuple(Outcome(i, ((0, 2.3), (5, (2.3 + end) / 2), (10, end))) for i, end in enumerate(ends))
    return Trial(title, role, outcomes=outcomes, whole=True, **more)


def repaired():
    original = trained("The network as it came", Role.ORIGINAL, [2.3, 2.31, 2.3], levels=(("head", -1.0), ("a", -9.0)))
    best = trained(
        "Replace <sigmoid> by ReLU.",
        Role.CANDIDATE,
        [0.5, 0.4, 0.6],
        changes=(Change("activation", "Replace", ("a",), code="model.a = torch.nn.ReLU()  # </script>"),),
        levels=(("head", -1.0), ("a", -1.1)),
        against_original=Difference(-1.5, -1.8, -1.2),
        proven=True,
        verdict="proven: better than both",
        diff="--- a/net.py\n+++ b/net.py\n-old\n+new\n",
    )
    placebo = trained("Placebo", Role.PLACEBO, [2.3, 2.3, 2.3], verdict="helps no more than chance")
    shares = Shares(-8.0, (Share(Factor.ACTIVATION, -7.0), Share(Factor.WEIGHT, -1.0)), 0.0, "a", "head")
    return Repair(Diagnosis(()), shares, (best, placebo, original), 10, 3, "SGD(lr=0.1)")
