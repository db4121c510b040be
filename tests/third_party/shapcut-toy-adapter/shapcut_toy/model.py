"""The model: bytes in, residual GRU layers, logits of the next byte out; and how it is stored."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BYTES = 256
CONFIG, WEIGHTS = "toy.json", "toy.safetensors"

Memory = list[Tensor | None]
"""For each layer what it remembers of the sequence so far, or None at the beginning."""


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a model."""

    width: int
    layers: int


class ToyLayer(nn.Module):
    """A GRU on the normalized hidden state, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, hidden: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        change, memory = self.gru(self.norm(hidden), memory)
        return hidden + change, memory


class ToyModel(nn.Module):
    """A language model of bytes."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(BYTES, config.width)
        self.layers = nn.ModuleList(ToyLayer(config.width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, BYTES, bias=False)

    def forward(self, tokens: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Logits of shape (batch, length, 256) for tokens of shape (batch, length), and the new memory."""
        hidden, after = self.embedding(tokens), []
        for layer, before in zip(self.layers, memory or [None] * len(self.layers), strict=True):
            hidden, remembered = layer(hidden, before)
            after.append(remembered)
        return self.head(self.norm(hidden)), after


def save(model: ToyModel, directory: Path) -> None:
    """Write a model into an existing directory."""
    (directory / CONFIG).write_text(json.dumps(asdict(model.config)), encoding="utf-8")
    save_file(model.state_dict(), directory / WEIGHTS)


def load(directory: Path) -> ToyModel:
    """Read a model; RuntimeError if weights and config do not fit."""
    model = ToyModel(ToyConfig(**json.loads((directory / CONFIG).read_text(encoding="utf-8"))))
    model.load_state_dict(load_file(directory / WEIGHTS), assign=True)
    return model.eval()
