"""The layer stack of RWKV-7 models of the ``rwkv7-hf`` package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shapcut.contracts import LayerStack, State, Unembedding


@contextmanager
def as_first(block: Any) -> Iterator[None]:
    """Let a block provide the values that later blocks mix in, as block 0 does."""
    attention = block.attn
    before = attention.layer_idx
    attention.layer_idx = 0
    try:
        yield
    finally:
        attention.layer_idx = before


class Rwkv7Stack(LayerStack):
    """Runs the package's blocks on whole batches without padding.

    The state is the hidden state, the values of the first block that ran, and for each sequence whether one
    has run: until then the embedding is not normed, since block 0 does that itself.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def prelude(self, input_ids: Tensor) -> State:
        """The embedding."""
        hidden = self._model.model.embeddings(input_ids)
        values = hidden.new_zeros(*hidden.shape[:2], self._model.config.attention_hidden_size)
        return hidden, values, torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)

    def step(self, index: int, state: State) -> State:
        """Block ``index`` on the whole batch."""
        _, values, begun = state
        block = self._model.model.layers[index]
        hidden = state[0] if index == 0 else self._normed_embedding(state)
        states = self._model.model._empty_layer_state(hidden)  # noqa: SLF001 - what the model itself calls
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if bool(begun[0]):
            hidden, *_, values = block(hidden, *states, values, mask)
        else:
            with as_first(block):
                hidden, *_, values = block(hidden, *states, values, mask)
        return hidden, values, torch.ones_like(begun)

    def stream(self, state: State) -> Tensor:
        """The hidden state; before a block has run, the normed embedding."""
        return self._normed_embedding(state)

    def readout(self, state: State) -> Tensor:
        """The model's head on the normed hidden state."""
        return self._model.lm_head(self.features(state))  # type: ignore[no-any-return]

    def unembedding(self) -> Unembedding:
        """The head's weights."""
        return Unembedding(self._model.lm_head.weight, self._model.lm_head.bias)

    def features(self, state: State) -> Tensor:
        """The normed hidden state."""
        return self._model.model.norm(self._normed_embedding(state))  # type: ignore[no-any-return]

    def _normed_embedding(self, state: State) -> Tensor:
        """The input of a later block; if none has run yet, normalised as by block 0."""
        if bool(state[2][0]):
            return state[0]
        return self._model.model.layers[0].pre_norm(state[0])  # type: ignore[no-any-return]
