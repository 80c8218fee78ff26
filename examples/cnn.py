"""A small residual CNN with batch norm and dropout that tells circles, squares and crosses apart.

gradtrace run examples/cnn.py --epochs 3
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE = 16


class Shapes(Dataset):
    """Noisy outlines of random place and size; drawn anew for each index, the same each time."""

    def __init__(self, num: int, seed: int) -> None:
        self.num, self.seed = num, seed
        ticks = torch.arange(SIZE, dtype=torch.float32)
        self.y, self.x = torch.meshgrid(ticks, ticks, indexing="ij")

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not 0 <= index < self.num:
            raise IndexError(index)
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        kind = index % 3
        cx, cy = (5 + 6 * torch.rand(2, generator=random)).tolist()
        radius = 2.5 + 2 * torch.rand((), generator=random).item()
        dx, dy = self.x - cx, self.y - cy
        distance = [
            ((dx**2 + dy**2).sqrt() - radius).abs(),
            (torch.maximum(dx.abs(), dy.abs()) - radius).abs(),
            torch.minimum((dx - dy).abs(), (dx + dy).abs()) + (dx.abs() > radius) * 9.0,
        ][kind]
        image = (distance < 0.8).float() + 0.2 * torch.randn(SIZE, SIZE, generator=random)
        return image[None], kind


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def make_model(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        Residual(channels),
        nn.MaxPool2d(2),
        Residual(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(channels, 3),
    )


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    model.train()
    return right / len(loader.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    options = {"batch_size": 32, "num_workers": args.workers}
    train, test = DataLoader(Shapes(480, 1), shuffle=True, **options), DataLoader(Shapes(120, 2), **options)
    model = make_model(args.channels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for epoch in range(args.epochs):
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch}  loss {loss.item():.4f}  accuracy {evaluate(model, test):.3f}")


if __name__ == "__main__":
    main()
