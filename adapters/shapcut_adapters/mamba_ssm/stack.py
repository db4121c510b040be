"""The layer stack of the package's language model."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import LayerStack, State, Unembedding
from shapcut_adapters.mamba_ssm.structure import blocks_of


class MambaStack(LayerStack):
    """The state is a pair: the last block's output, and the residual stream without it.

    The first block is given no residual. Here it gets zeros: adding them changes no number, and their dtype
    is the one that the model gives its residual, so nothing is rounded differently.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._blocks = blocks_of(model)

    def prelude(self, input_ids: Tensor) -> State:
        """The embedded tokens and a residual of zeros."""
        backbone = self._model.backbone
        hidden = backbone.embedding(input_ids)
        dtype = torch.float32 if backbone.residual_in_fp32 else hidden.dtype
        return (hidden, torch.zeros_like(hidden, dtype=dtype))

    def step(self, index: int, state: State) -> State:
        """The pair after block ``index``."""
        hidden, residual = self._blocks[index](*state)
        return (hidden, residual)

    def stream(self, state: State) -> Tensor:
        """The sum of the pair."""
        hidden, residual = state
        return hidden + residual

    def readout(self, state: State) -> Tensor:
        """Logits by the last norm and the output embedding."""
        logits: Tensor = self._model.lm_head(self.features(state))
        return logits

    def unembedding(self) -> Unembedding | None:
        """The output embedding, if it is a plain linear map with weights in memory."""
        head = self._model.lm_head
        if type(head) is not nn.Linear or hasattr(head, "_hf_hook"):
            return None
        return Unembedding(head.weight, head.bias)

    def features(self, state: State) -> Tensor:
        """The sum of the pair, normalised as at the end of the model's own forward."""
        hidden, residual = state
        norm = self._model.backbone.norm_f
        if not self._model.backbone.fused_add_norm:
            return norm((hidden + residual).to(norm.weight.dtype))  # type: ignore[no-any-return]
        layer_norm: Any = import_module("mamba_ssm.ops.triton.layer_norm")
        return layer_norm.layer_norm_fn(  # type: ignore[no-any-return]
            hidden,
            norm.weight,
            norm.bias,
            residual=residual,
            eps=norm.eps,
            residual_in_fp32=self._model.backbone.residual_in_fp32,
            is_rms_norm=isinstance(norm, layer_norm.RMSNorm),
        )
