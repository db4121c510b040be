"""Rotary position embedding in plain PyTorch, for the package's attention where flash-attn is missing."""

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotates pairs of channels of queries and keys by angles proportional to the position (Su et al. 2021).

    Built and called as the class of that name in ``flash_attn.layers.rotary``.

    Args:
        dim: how many channels of each head are turned; the rest pass.
        base: of the geometric series of wavelengths.
        interleaved: whether pairs are neighbours (0, 1), (2, 3), ...; else one channel of each half.
        device: not needed, there are no weights.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        device: object = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.dim = dim
        self.base = base
        self.interleaved = interleaved

    def forward(
        self,
        q: Tensor,
        kv: Tensor,
        seqlen_offset: int = 0,
        max_seqlen: int | None = None,  # noqa: ARG002 - sizes flash-attn's table
    ) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys.

        Args:
            q: shape (batch, length, heads, channels).
            kv: keys and values, shape (batch, length, 2, heads, channels).
            seqlen_offset: position of the first token.
            max_seqlen: not needed.
        """
        positions = torch.arange(q.shape[1], device=q.device, dtype=torch.float32) + seqlen_offset
        exponents = torch.arange(0, self.dim, 2, device=q.device, dtype=torch.float32) / self.dim
        angles = torch.outer(positions, self.base**-exponents)[:, None]  # (length, 1, dim / 2)
        turns = torch.polar(torch.ones_like(angles), angles)
        keys, values = kv.unbind(dim=2)
        return self._turn(q, turns), torch.stack((self._turn(keys, turns), values), dim=2)

    def _turn(self, x: Tensor, turns: Tensor) -> Tensor:
        turned, rest = x[..., : self.dim], x[..., self.dim :]
        pairs = turned.reshape(*x.shape[:-1], *((-1, 2) if self.interleaved else (2, -1))).float()
        pairs = pairs if self.interleaved else pairs.transpose(-1, -2)
        result = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turns)
        result = result if self.interleaved else result.transpose(-1, -2)
        return torch.cat((result.flatten(-2).to(x.dtype), rest), dim=-1)
