"""A generative adversarial network that learns a ring of eight points in the plane: two models, two optimizers.

gradtrace run examples/gan.py --steps 500
"""

import argparse
import math
from itertools import pairwise

import torch
from torch import nn


def make_real(num: int) -> torch.Tensor:
    """Points [num, 2] around one of eight places on a circle."""
    angles = torch.randint(8, (num,)) * (2 * math.pi / 8)
    return torch.stack([angles.cos(), angles.sin()], dim=1) + 0.05 * torch.randn(num, 2)


def make_mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator, discriminator = make_mlp(8, 64, 64, 2), make_mlp(2, 64, 64, 1)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(args.batch, 1), torch.zeros(args.batch, 1)
    for step in range(args.steps):
        fake = generator(torch.randn(args.batch, 8))
        d_loss = bce(discriminator(make_real(args.batch)), ones) + bce(discriminator(fake.detach()), zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        g_loss = bce(discriminator(fake), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        if step % 100 == 0 or step == args.steps - 1:
            radius = fake.detach().norm(dim=1).mean().item()
            print(f"step {step}  discriminator {d_loss.item():.4f}  generator {g_loss.item():.4f}  radius {radius:.3f}")


if __name__ == "__main__":
    main()
