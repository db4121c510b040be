"""The weights of one RWKV block in the layout of the package's functions.

The layout (transposed, squeezed, some in fp32) is derived from the raw weights on each use, as views: nothing
is held twice, and changes of a weight take effect at once.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class BlockWeights:
    """Raw weights by the suffix of their name, such as ``att.key.weight``, for arithmetic in one dtype.

    Args:
        raw: the weights.
        dtype: what vectors and matrices are given in.
    """

    def __init__(self, raw: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.raw = raw
        self.dtype = dtype

    def vector(self, name: str) -> Tensor:
        """A weight without its dimensions of size 1."""
        return self.raw[name].squeeze().to(self.dtype)

    def vectors(self, prefix: str, letters: str) -> tuple[Tensor, ...]:
        """Weights whose names end in one letter each."""
        return tuple(self.vector(prefix + letter) for letter in letters)

    def matrix(self, name: str) -> Tensor:
        """A weight whose rows are the inputs."""
        return self.raw[f"{name}.weight"].to(self.dtype).t()

    def matrices(self, part: str, *names: str) -> tuple[Tensor, ...]:
        """Several matrices of ``att`` or ``ffn``."""
        return tuple(self.matrix(f"{part}.{name}") for name in names)

    def norm(self, name: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of a norm."""
        chosen = dtype or self.dtype
        return self.raw[f"{name}.weight"].to(chosen), self.raw[f"{name}.bias"].to(chosen)

    @property
    def heads(self) -> int:
        """Number of heads (v5.2 and later)."""
        for name in ("att.r_k", "att.time_faaaa", "att.time_decay"):
            if name in self.raw:
                return self.raw[name].shape[0]
        raise KeyError("att.time_decay")

    @property
    def attention_width(self) -> int:
        """Number of channels of all heads together."""
        return self.raw["att.key.weight"].shape[0]

    def per_head(self, name: str) -> Tensor:
        """A weight in fp32, shape (heads, head size, 1)."""
        return self.raw[name].float().reshape(self.heads, -1, 1)

    def bonus(self) -> Tensor:
        """The weight of the current token, shape (heads, head size, 1); an older name holds its logarithm."""
        if "att.time_faaaa" in self.raw:
            return self.per_head("att.time_faaaa")
        return torch.exp(self.per_head("att.time_first"))

    def initial_state(self) -> Tensor:
        """What heads remember of nothing, zeros or learned: shape (heads, head size, head size)."""
        if "att.time_state" in self.raw:
            return self.raw["att.time_state"].transpose(1, 2).float()
        size = self.attention_width // self.heads
        return torch.zeros((self.heads, size, size), device=self.raw["ln1.weight"].device)
