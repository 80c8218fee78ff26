"""A character LSTM on real text: which character comes next?

    python examples/char_lstm.py --steps 300 --seq-length 100

The text beside this file is Alice's first chapter and a half (Lewis Carroll 1865, public domain), from memory.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEXT = Path(__file__).with_name("text.txt")
WIDTH = 128

Batch = tuple[Tensor, Tensor]


class CharLSTM(nn.Module):
    """Embedding, one LSTM, a linear head: [batch, time] -> [batch, time, characters]."""

    def __init__(self, num_characters: int, width: int = WIDTH) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, num_characters)

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(characters))
        logits: Tensor = self.head(states)
        return logits


def read_text() -> tuple[Tensor, str]:
    """The text as numbers, and the characters they stand for."""
    text = TEXT.read_text(encoding="utf-8")
    alphabet = "".join(sorted(set(text)))
    return torch.tensor([alphabet.index(character) for character in text]), alphabet


def windows(data: Tensor, seq_length: int, batch_size: int, count: int, seed: int = 0) -> list[Batch]:
    """Stretches of the text drawn at random, and the same shifted by one character."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        starts = torch.randint(len(data) - seq_length - 1, (batch_size,), generator=generator)
        rows = starts[:, None] + torch.arange(seq_length + 1)
        batches.append((data[rows[:, :-1]], data[rows[:, 1:]]))
    return batches


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the next character, in nats."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def build(seq_length: int = 100) -> tuple[nn.Module, object, list[Batch], torch.optim.Optimizer]:
    """Model, loss function, a few batches, optimizer."""
    torch.manual_seed(0)
    data, alphabet = read_text()
    model = CharLSTM(len(alphabet))
    return model, loss_fn, windows(data, seq_length, 16, 3), torch.optim.Adam(model.parameters(), lr=3e-3)


@torch.no_grad()
def write(model: nn.Module, alphabet: str, start: str, length: int) -> str:
    """Let the model go on writing."""
    text = start
    for _ in range(length):
        recent = torch.tensor([[alphabet.index(character) for character in text[-200:]]])
        chances = F.softmax(model(recent)[0, -1] / 0.7, dim=-1)
        text += alphabet[int(torch.multinomial(chances, 1))]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seq-length", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    data, alphabet = read_text()
    model = CharLSTM(len(alphabet))
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    print(f"{len(data)} characters, {len(alphabet)} different ones")
    for step, batch in enumerate(windows(data, options.seq_length, options.batch_size, options.steps, options.seed)):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")
    print(repr(write(model, alphabet, "Alice ", 120)))


if __name__ == "__main__":
    main()
