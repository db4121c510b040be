"""The layer stack of an RWKV model."""

import torch
from torch import Tensor

from shapcut.contracts import LayerStack, State, Unembedding
from shapcut_adapters.rwkv.layers import Flow
from shapcut_adapters.rwkv.model import RwkvModel


class RwkvStack(LayerStack):
    """Runs blocks with the package's functions, sequence by sequence, as the model does.

    The state is the hidden state; for v7 also the values of the first block that ran, and a flag per sequence
    whether one has run.
    """

    def __init__(self, model: RwkvModel) -> None:
        self._model = model

    def prelude(self, input_ids: Tensor) -> State:
        """The normed embedding."""
        hidden = self._model.embedded(input_ids)
        if self._model.version != "7":
            return (hidden,)
        none_ran = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        return hidden, torch.zeros_like(hidden), none_ran

    def step(self, index: int, state: State) -> State:
        """Block ``index`` on each sequence."""
        block = self._model.blocks[index]
        flows = [self._model.run(block, flow)[0] for flow in _flows(state)]
        hidden = torch.stack([flow.hidden for flow in flows])
        values = [flow.v_first for flow in flows if flow.v_first is not None]
        return (hidden, torch.stack(values), torch.ones_like(state[2])) if values else (hidden,)

    def readout(self, state: State) -> Tensor:
        """Logits of the hidden state."""
        return self.features(state) @ self._model.unembedding.t()

    def unembedding(self) -> Unembedding:
        """The model's head."""
        return Unembedding(self._model.unembedding, None)

    def features(self, state: State) -> Tensor:
        """The normed hidden state."""
        return self._model.features(state[0])


def _flows(state: State) -> list[Flow]:
    """The input of a block, per sequence."""
    if len(state) == 1:
        return [Flow(hidden) for hidden in state[0]]
    rows = zip(*state, strict=True)
    return [Flow(hidden, v_first if ran else None) for hidden, v_first, ran in rows]
