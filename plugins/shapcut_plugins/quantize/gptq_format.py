"""GPTQ's checkpoint format: low-bit integers packed into 32-bit words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

BITS = (2, 4, 8)
"""Bits per weight that divide a word evenly."""

WORD_BITS = 32
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True, eq=False, slots=True)
class GroupedWeight:
    """A quantized weight matrix, ``(integers - zeros) * scales`` with one zero and one scale per group.

    Attributes:
        integers: int32, shape (outputs, inputs), from 0 to 2**bits - 1.
        scales: float16, shape (outputs, groups).
        zeros: int32, shape (outputs, groups).
        group_of: the group of each input, int32, shape (inputs,).
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    group_of: Tensor

    @classmethod
    def nearest(
        cls, weight: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, bits: int
    ) -> "GroupedWeight":
        """Round a matrix of shape (outputs, inputs) to the nearest integers, for given groups."""
        stored, groups = scales.half(), group_of.long()
        shifted = weight.float() / stored.float()[:, groups] + zeros.float()[:, groups]
        integers = shifted.round().clamp(0, 2**bits - 1).int()
        return cls(integers, stored, zeros.round().int(), group_of.int())

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor], bits: int) -> "GroupedWeight":
        """The inverse of `packed`."""
        return cls(
            integers=unpacked_rows(tensors["qweight"], bits).T,
            scales=tensors["scales"].T,
            zeros=(unpacked_rows(tensors["qzeros"].T, bits) + 1).bitwise_and(2**bits - 1),
            group_of=tensors["g_idx"],
        )

    def dense(self) -> Tensor:
        """The matrix in float32, shape (outputs, inputs)."""
        groups = self.group_of.long()
        return (self.integers - self.zeros[:, groups]).float() * self.scales.float()[:, groups]

    def packed(self, bits: int) -> dict[str, Tensor]:
        """This matrix's tensors in a checkpoint, by name.

        Zeros are stored minus one, as in version 1 of the format.
        """
        return {
            "qweight": packed_rows(self.integers.T, bits),
            "qzeros": packed_rows(self.zeros - 1, bits).T.contiguous(),
            "scales": self.scales.T.contiguous(),
            "g_idx": self.group_of,
        }


def packed_rows(integers: Tensor, bits: int) -> Tensor:
    """Pack rows of non-negative integers into int32, the first row in the lowest bits.

    Args:
        integers: shape (rows, columns); ``rows * bits`` is a multiple of 32.
        bits: per integer; a divisor of 32.

    Returns:
        Shape (rows * bits / 32, columns).
    """
    in_word = WORD_BITS // bits
    words = integers.long().bitwise_and(2**bits - 1).reshape(-1, in_word, integers.shape[1])
    shifts = torch.arange(0, WORD_BITS, bits)[:, None]
    unsigned = (words << shifts).sum(dim=1)
    return torch.where(unsigned >= 2 ** (WORD_BITS - 1), unsigned - 2**WORD_BITS, unsigned).int()


def unpacked_rows(words: Tensor, bits: int) -> Tensor:
    """The integers in `packed_rows`' words, shape (rows, columns)."""
    shifts = torch.arange(0, WORD_BITS, bits)[:, None]
    integers = (words.long()[:, None] >> shifts).bitwise_and(2**bits - 1)
    return integers.reshape(-1, words.shape[1]).int()


def put_dense(model: nn.Module, directory: Path, bits: int) -> None:
    """Copy the dequantized weights of a GPTQ checkpoint into the linear layers of a model."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            names = [name.removesuffix(".qweight") for name in stored.keys() if name.endswith(".qweight")]  # noqa: SIM118
            for name in names:
                parts = {part: stored.get_tensor(f"{name}.{part}") for part in _PARTS}
                weight = model.get_parameter(f"{name}.weight")
                weight.data = GroupedWeight.unpacked(parts, bits).dense().to(weight)
