"""Is the cause proven? What `gradtrace.fix` says of the network of sigmoids that another chapter trains.

The same digits with the same optimizer, in batches, so that the order of the data is a matter of the seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

import gradtrace
from gradtrace.lesson.setting import PROOF_BATCH, PROOF_STEPS
from gradtrace.lesson.training import examples, learner

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradtrace.lesson.setting import TrainingSetting
    from gradtrace.lesson.training import Batch
    from gradtrace.records.repair import Repair

UNLIMITED_S = 3600.0
"""What does not depend on the clock is always the same."""


def prove(setting: TrainingSetting) -> Repair:
    """Shares of the causes, and all trials."""
    pixels, labels = map(torch.from_numpy, examples())
    batches = list(zip(pixels.split(PROOF_BATCH), labels.split(PROOF_BATCH), strict=True))
    model = learner(setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.learning_rate)
    return gradtrace.fix(model, _loss, batches, optimizer, steps=PROOF_STEPS, time_budget_s=UNLIMITED_S)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])
