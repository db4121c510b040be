"""The parts of blocks that stay: token mixers (attentions) and MLPs."""

from collections.abc import Collection
from dataclasses import dataclass

from shapcut_adapters.transformers.families.rules import Cut


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """A mixer and the MLPs that run between it and the next mixer, by the numbers of their blocks."""

    mixer: int
    mlps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeptParts:
    """The parts that stay of ``depth`` blocks, each of which is a mixer, then an MLP.

    Attributes:
        depth: number of blocks.
        mixers: blocks whose mixer stays, ascending.
        mlps: blocks whose MLP stays, ascending.
    """

    depth: int
    mixers: tuple[int, ...]
    mlps: tuple[int, ...]

    @classmethod
    def without(cls, depth: int, absent: Collection[int]) -> "KeptParts":
        """The parts that stay; 2 * i in ``absent`` is the mixer of block i, 2 * i + 1 its MLP."""
        blocks = range(depth)
        return cls(
            depth,
            tuple(block for block in blocks if 2 * block not in absent),
            tuple(block for block in blocks if 2 * block + 1 not in absent),
        )

    @property
    def are_whole_blocks(self) -> bool:
        """Whether each block stays whole or is gone."""
        return self.mixers == self.mlps

    @property
    def mixer_cut(self) -> Cut:
        """The mixers as a cut."""
        return Cut(self.depth, self.mixers)

    @property
    def mlp_cut(self) -> Cut:
        """The MLPs as a cut."""
        return Cut(self.depth, self.mlps)

    @property
    def leading(self) -> tuple[int, ...]:
        """The MLPs that run before the first mixer."""
        first = self.mixers[0] if self.mixers else self.depth
        return tuple(block for block in self.mlps if block < first)

    @property
    def layers(self) -> tuple[KeptLayer, ...]:
        """Each mixer with the MLPs that follow it."""
        ends = (*self.mixers, self.depth)[1:]
        return tuple(
            KeptLayer(mixer, tuple(block for block in self.mlps if mixer <= block < end))
            for mixer, end in zip(self.mixers, ends, strict=True)
        )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...] | None:
        """The mixer and the MLP of each new block, if mixers and MLPs alternate; else None."""
        if self.leading or not self.mixers or any(len(layer.mlps) != 1 for layer in self.layers):
            return None
        return tuple((layer.mixer, layer.mlps[0]) for layer in self.layers)
