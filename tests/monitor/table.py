"""The table of loops: every way in which trainings are written, each a row, with its numbers by plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

NEVER = -1

Truth = list[tuple[float | None, float | None]]
"""By row: the loss and the norm of the gradients that the optimizers were given; None: there is none."""


class Middle(nn.Module):
    """Changes nothing, or takes the logarithm of what is negative where it is told to."""

    is_bad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positive = torch.exp(x) * (-1.0 if self.is_bad else 1.0)
        return torch.log(positive)


LINE = Middle.forward.__code__.co_firstlineno + 2


def net(inputs: int = 4, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), Middle(), nn.Tanh(), nn.Linear(8, outputs))


def norm_of(parameters: Any) -> float | None:
    gradients = [p.grad.double() for p in parameters if p.grad is not None]
    return math.sqrt(sum(float(g.square().sum()) for g in gradients)) if gradients else None


def sgd(*parts: Any, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [p for part in parts for p in (part if isinstance(part, list) else part.parameters())], lr=lr
    )


@dataclass
class Loop:
    """A training that has not begun."""

    models: Any
    optimizers: list[torch.optim.Optimizer]
    step: Callable[[int], Truth]
    """One turn of the loop: the rows that it makes."""
    spoiled: Middle
    is_called: bool = True
    """Whether the model is called, or something is made of it; then a NaN can be placed in it."""
    after: Callable[[Any], None] = field(default=lambda watch: None)
    """What a loop must call at the end of a turn."""
    where: str = "1"
    rows_a_turn: float = 1.0


def loss_of(model: nn.Module, number: int = 0) -> torch.Tensor:
    return (model(torch.randn(6, 4)) - 1.0).square().mean()


def simple(body: Callable[[nn.Sequential, torch.optim.Optimizer, int], Truth], **options: Any) -> Loop:
    model = net()
    optimizer = sgd(model)
    return Loop(model, [optimizer], lambda number: body(model, optimizer, number), model[1], **options)


def plain() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(loss.item(), norm)]

    return simple(step)


def clipped() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1e-2))
        optimizer.step()
        return [(loss.item(), norm)]

    return simple(step)


def accumulated() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        losses = []
        for _ in range(3):
            losses.append(loss_of(model) / 3)
            losses[-1].backward()
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(sum(loss.item() for loss in losses), norm)]

    return simple(step)


def closure() -> Loop:
    def step(model, optimizer, number):
        norms = []

        def evaluate():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            norms.append(norm_of(model.parameters()))
            return loss

        return [(optimizer.step(evaluate).item(), norms[0])]

    return simple(step)


def closure_of_many_evaluations() -> Loop:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    x = torch.randn(6, 4)

    def step(number):
        seen: Truth = []

        def evaluate():
            optimizer.zero_grad()
            loss = (model(x) - 1.0).square().mean()
            loss.backward()
            seen.append((loss.item(), norm_of(model.parameters())))
            return loss

        optimizer.step(evaluate)
        return seen[:1]

    return Loop(model, [optimizer], step, model[1])


def a_batch_is_left_out() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        if number % 5 == 4:
            optimizer.step()
            return [(None, None)]
        loss = loss_of(model)
        loss.backward()
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(loss.item(), norm)]

    return simple(step)


def gradients_by_hand() -> Loop:
    def step(model, optimizer, number):
        parameters = list(model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss_of(model), parameters), strict=True):
            parameter.grad = gradient
        norm = norm_of(parameters)
        optimizer.step()
        return [(None, norm)]

    return simple(step, is_called=False)


def gradients_a_sample() -> Loop:
    def step(model, optimizer, number):
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

        def one(weights, x):
            return (torch.func.functional_call(model, weights, (x[None],)) - 1.0).square().mean()

        each = torch.func.vmap(torch.func.grad(one), (None, 0))(weights, torch.randn(6, 4))
        for name, parameter in model.named_parameters():
            parameter.grad = each[name].mean(0)
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(None, norm)]

    return simple(step, is_called=False)


def several_losses() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        losses = [loss_of(model), model(torch.randn(6, 4)).square().mean() * 0.1]
        for loss in losses:
            loss.backward()
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(sum(loss.item() for loss in losses), norm)]

    return simple(step)


def several_roots() -> Loop:
    def step(model, optimizer, number):
        optimizer.zero_grad()
        y = model(torch.randn(6, 4))
        losses = [(y - 1.0).square().mean(), y.abs().mean()]
        torch.autograd.backward(losses)
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(sum(loss.item() for loss in losses), norm)]

    return simple(step)


def an_optimizer_a_layer(order: Callable[[int], list[int]] = lambda number: [0, 1]) -> Loop:
    model = net()
    layers = [model[0], model[3]]
    optimizers = [sgd(layer) for layer in layers]

    def step(number):
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = norm_of([p for i in order(number) for p in layers[i].parameters()])
        for i in order(number):
            optimizers[i].step()
        return [(loss.item(), norm)]

    return Loop(model, optimizers, step, model[1])


def some_optimizers_only() -> Loop:
    return an_optimizer_a_layer(lambda number: [1] if number % 2 else [1, 0])


def optimizers_in_any_order() -> Loop:
    return an_optimizer_a_layer(lambda number: [1, 0] if number % 3 else [0, 1])


def an_optimizer_within_the_backward_pass() -> Loop:
    model = net()
    optimizers = {parameter: sgd([parameter]) for parameter in model.parameters()}
    squares: list[float] = []

    def move(parameter):
        squares.append(float(parameter.grad.double().square().sum()))
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(move)

    def step(number):
        squares.clear()
        loss = loss_of(model)
        loss.backward()
        return [(loss.item(), math.sqrt(sum(squares)))]

    return Loop(model, list(optimizers.values()), step, model[1])


def gan(turns: int = 1) -> Loop:
    """The order of the official DCGAN: the critic on real and on fake, its step; then the generator's."""
    generator, critic = net(outputs=4), net()
    of_generator, of_critic = sgd(generator, lr=1e-3), sgd(critic, lr=1e-3)

    def step(number):
        rows = []
        for _ in range(turns):
            critic.zero_grad()
            real = (critic(torch.randn(6, 4)) - 1.0).square().mean()
            real.backward()
            fake = generator(torch.randn(6, 4))
            unreal = critic(fake.detach()).square().mean()
            unreal.backward()
            rows.append([real.item() + unreal.item(), norm_of(critic.parameters())])
            of_critic.step()
        generator.zero_grad()
        loss = (critic(fake) - 1.0).square().mean()
        loss.backward()
        norm = norm_of(generator.parameters())
        of_generator.step()
        rows[-1] = [rows[-1][0] + loss.item(), math.hypot(rows[-1][1], norm)]
        return [tuple(row) for row in rows]

    models = {"generator": generator, "critic": critic}
    return Loop(models, [of_generator, of_critic], step, critic[1], where="critic.1")


def parameters_that_join() -> Loop:
    model = net()
    optimizer = sgd(model[3])

    def step(number):
        if number == 3:
            optimizer.add_param_group({"params": list(model[0].parameters())})
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = norm_of(model.parameters())
        optimizer.step()
        return [(loss.item(), norm)]

    return Loop(model, [optimizer], step, model[1])


def an_optimizer_that_nobody_has_told_of() -> Loop:
    loop = plain()
    loop.optimizers = []
    return loop


def an_optimizer_made_anew() -> Loop:
    model = net()
    made = [sgd(model)]

    def step(number):
        if number and not number % 10:
            made.append(torch.optim.Adam(model.parameters(), lr=1e-3))
        made[-1].zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = norm_of(model.parameters())
        made[-1].step()
        return [(loss.item(), norm)]

    return Loop(model, made[:1], step, model[1])


def plain_tensors() -> Loop:
    W, b = torch.randn(4, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer, middle = sgd([W, b]), Middle()

    def step(number):
        optimizer.zero_grad()
        loss = (middle(torch.randn(6, 4) @ W) + b - 1.0).square().mean()
        loss.backward()
        norm = norm_of([W, b])
        optimizer.step()
        return [(loss.item(), norm)]

    return Loop({"W": W, "b": b}, [optimizer], step, middle, where="loss")


def by_hand() -> Loop:
    """No optimizer of torch.optim."""

    def step(model, optimizer, number):
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = norm_of(model.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-2 * parameter.grad
        return [(loss.item(), norm)]

    loop = simple(step)
    loop.optimizers, loop.after = [], lambda watch: watch.step()
    return loop


LOOPS: dict[str, Callable[[], Loop]] = {
    made.__name__: made
    for made in (
        plain, clipped, accumulated, closure, closure_of_many_evaluations, a_batch_is_left_out, gradients_by_hand,
        gradients_a_sample, several_losses, several_roots, an_optimizer_a_layer, some_optimizers_only,
        optimizers_in_any_order, an_optimizer_within_the_backward_pass, gan, parameters_that_join,
        an_optimizer_that_nobody_has_told_of, an_optimizer_made_anew, plain_tensors, by_hand,
    )
}  # fmt: skip
