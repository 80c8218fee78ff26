"""What to change in the loop around a network: when gradients are cleared, and who is stepped, and when."""

from __future__ import annotations

from gradtrace.records.finding import Remedy

KEEP_GRADIENTS = Remedy(
    "Clear the gradients before the backward pass, not between it and the step.",
    "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
)

OWN_OPTIMIZER = Remedy(
    "Give each optimizer the parameters of its own network.",
    "optimizer_d = torch.optim.Adam(discriminator.parameters())\n"
    "optimizer_g = torch.optim.Adam(generator.parameters())",
)

KEEP_THE_MODEL = Remedy(
    "Load weights into the model that the optimizer was made for, and put no other in its place; or make the optimizer "
    "anew with the model.",
    "best = copy.deepcopy(model.state_dict())\n...\nmodel.load_state_dict(best)",
    "torch.optim: constructing an optimizer",
)

DIVIDE_LOSS = Remedy(
    "Divide each loss by the number of backward passes that are added up before a step.",
    "(loss / num_passes).backward()",
    "Goyal et al. 2017, section 3",
)

STEP_EACH = Remedy(
    "Step every optimizer whose network is to learn, or freeze that network and make no optimizer for it.",
    "loss.backward()\nencoder_optimizer.step()\ndecoder_optimizer.step()",
)

STEP_BY_EPOCH = Remedy(
    "Step the schedule once an epoch, or tell it how many batches there are.",
    "for epoch in range(num_epochs):\n    for batch in batches: ...\n    scheduler.step()  # once an epoch",
    "torch.optim: how to adjust learning rate",
)

UNSCALE_FIRST = Remedy(
    "Take the loss scale off the gradients before they are clipped.",
    "scaler.scale(loss).backward()\n"
    "scaler.unscale_(optimizer)\n"
    "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"
    "scaler.step(optimizer)\n"
    "scaler.update()",
    "torch.amp: working with unscaled gradients",
)

SMALLER_EPS = Remedy(
    "Take the factor off the loss, or give the optimizer an eps far below the gradients: a GradScaler takes its scale "
    "off again before the step, and changes nothing here.",
    "torch.optim.Adam(model.parameters(), lr=..., eps=1e-15)",
    "Kingma & Ba 2015",
)
