"""What shapcut must know of the model: its players, and how to run and to rebuild it without some of them."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    Granularity,
    LayerStack,
    Player,
    State,
    Unembedding,
    UnsupportedModelError,
)
from shapcut_toy.model import BYTES, Memory, ToyConfig, ToyLayer, ToyModel, load, save


class ToyAdapter(Adapter):
    """Every residual layer is a player."""

    name: ClassVar[str] = "toy"
    library: ClassVar[str] = "shapcut-toy-adapter"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ToyModel)

    def players(self, model: Any, granularity: Granularity = "block") -> tuple[Player, ...]:
        if granularity != "block":
            raise UnsupportedModelError("adapter toy: a layer has no parts; use --granularity block")
        return tuple(
            Player(index, f"layers.{index}", "mixer", sum(p.numel() for p in layer.parameters()))
            for index, layer in enumerate(model.layers)
        )

    @contextmanager
    def bypass(
        self, model: Any, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        n_players = len(self.players(model, granularity))
        if wrong := sorted(set(present) - set(range(n_players))):
            raise IndexError(f"no players {wrong}: the model has players 0..{n_players - 1}")
        with ExitStack() as stack:
            for index, layer in enumerate(model.layers):
                if index not in present:
                    stack.callback(layer.register_forward_hook(_give_back).remove)
            yield

    def remove(self, model: Any, absent: Collection[int], granularity: Granularity = "block") -> ToyModel:
        if objection := self.can_remove(model, absent, granularity):
            raise UnsupportedModelError(objection)
        layers = [layer for index, layer in enumerate(model.layers) if index not in absent]
        model.layers = nn.ModuleList(layers)
        model.config = replace(model.config, layers=len(layers))
        return model  # type: ignore[no-any-return]

    def stack(self, model: Any, granularity: Granularity = "block") -> LayerStack:
        return ToyStack(model)

    def logits(self, model: Any, input_ids: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(input_ids)[0]
        return logits

    def generate(self, model: Any, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        memory: Memory | None = None
        tokens, unread = input_ids, input_ids
        with torch.inference_mode():
            for _ in range(new_tokens):
                logits, remembered = model(unread, memory)
                best = logits[:, -1:].argmax(dim=-1)
                tokens = torch.cat([tokens, best], dim=1)
                unread, memory = (best, remembered) if use_cache else (tokens, None)
        return tokens

    def save(self, model: Any, directory: Path) -> None:
        save(model, directory)

    def load(self, directory: Path) -> ToyModel:
        try:
            return load(directory)
        except RuntimeError as error:
            raise UnsupportedModelError(f"{directory}: weights and config do not fit") from error

    def usage(self, model: Any) -> str:
        return "import pathlib, shapcut_toy\n\nmodel = shapcut_toy.load(pathlib.Path('this/directory'))"

    def example(self, seed: int) -> tuple[ToyModel, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        model = ToyModel(ToyConfig(width=16, layers=5)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        return model, torch.randint(BYTES, (3, 12), generator=generator)


class ToyStack(LayerStack):
    """The model taken apart, so that coalitions with the same first layers share the work of these."""

    def __init__(self, model: ToyModel) -> None:
        self._model = model

    def prelude(self, input_ids: Tensor) -> State:
        return (self._model.embedding(input_ids),)

    def step(self, index: int, state: State) -> State:
        hidden, _ = self._model.layers[index](state[0], None)
        return (hidden,)

    def features(self, state: State) -> Tensor:
        normalized: Tensor = self._model.norm(state[0])
        return normalized

    def readout(self, state: State) -> Tensor:
        logits: Tensor = self._model.head(self.features(state))
        return logits

    def unembedding(self) -> Unembedding:
        return Unembedding(self._model.head.weight, None)


def _give_back(_layer: ToyLayer, inputs: tuple[Tensor, Tensor | None], _outputs: object) -> object:
    """A forward hook that lets a layer return what it was given."""
    return inputs
