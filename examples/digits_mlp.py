"""A deep network of sigmoids on handwritten-like digits: it does not learn. With --activation relu it does.

python examples/digits_mlp.py
gradtrace run examples/digits_mlp.py
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

GLYPHS = """
.###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...#
#...# ..#.. ...#. ..##. .#.#. ####. ####. ...#. .###. .####
#...# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ....#
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .###.
"""


def make_digits(num: int) -> TensorDataset:
    """Images [num, 64] of digits, shifted and noisy, and what they show [num]."""
    lines = GLYPHS.split()
    glyphs = torch.zeros(10, 8, 8)
    for place, line in enumerate(lines):
        row, digit = divmod(place, 10)
        glyphs[digit, 1 + row, 1:6] = torch.tensor([float(pixel == "#") for pixel in line])
    labels = torch.randint(10, (num,))
    shifts = torch.randint(3, (num,)).tolist()
    images = torch.stack([glyphs[label].roll(shift, 1) for label, shift in zip(labels, shifts, strict=True)])
    return TensorDataset((images + 0.3 * torch.randn_like(images)).flatten(1), labels)


def make_model(depth: int, width: int, activation: str) -> nn.Sequential:
    act = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    layers = [nn.Linear(64, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activation", choices=["sigmoid", "tanh", "relu"], default="sigmoid")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    loader = DataLoader(make_digits(2048), batch_size=64, shuffle=True)
    test_images, test_labels = make_digits(512).tensors
    model = make_model(args.depth, args.width, args.activation)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
        print(f"epoch {epoch}  loss {loss.item():.4f}  accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
