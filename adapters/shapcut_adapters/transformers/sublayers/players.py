"""The parts of all blocks as players, numbered in execution order."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from shapcut.contracts import Player, UnsupportedModelError
from shapcut_adapters.shared.forwards import replaced_blocks
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.decoder import Decoder, find_decoder
from shapcut_adapters.transformers.interception import without_cache
from shapcut_adapters.transformers.removal import needed_blocks, pinned_blocks
from shapcut_adapters.transformers.sublayers.layout import Layout, find_layout
from shapcut_adapters.transformers.sublayers.parts import Part, silenced


@dataclass(frozen=True, slots=True)
class SubLayers:
    """A decoder with the parts of its blocks as players.

    Attributes:
        decoder: the model.
        blocks: the parts of each block, in execution order.
    """

    decoder: Decoder
    blocks: Layout

    @staticmethod
    def of(model: nn.Module) -> "SubLayers":
        """The parts of a model's blocks; found by a few runs of single blocks, once per model.

        Raises:
            UnsupportedModelError: if its blocks do not come apart.
        """
        decoder = find_decoder(model)
        return SubLayers(decoder, find_layout(decoder))

    def stages(self) -> list[range]:
        """The players of each block."""
        counts = [len(parts) for parts in self.blocks]
        return [range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]

    def players(self) -> tuple[Player, ...]:
        """One player per part, named by the dotted path of its module.

        What the parts of a block share, such as the norm before both, is counted with the first.
        """
        pinned, needed = pinned_blocks(self.decoder), needed_blocks(self.decoder)
        totals, own = self.decoder.block_parameters(), self.decoder.own_parameters()
        found: list[Player] = []
        for index, parts in enumerate(self.blocks):
            counts = [sum(weight.numel() for weight in self._of(own, index, part)) for part in parts]
            counts[0] += totals[index] - sum(counts)
            for part, count in zip(parts, counts, strict=True):
                reason = pinned.get(index, "") or ("" if part.kind == "mlp" else needed.get(index, ""))
                name = f"{self.decoder.stack}.{index}.{part.path}"
                found.append(Player(len(found), name, part.kind, count, removable=not reason, reason=reason))
        return tuple(found)

    def parameters(self, player: Player) -> list[nn.Parameter]:
        """The parameters that only one player uses."""
        index, part = self._part(player.name)
        return self._of(self.decoder.own_parameters(), index, part)

    @contextmanager
    def bypass(self, present: Collection[int]) -> Iterator[None]:
        """Let absent parts add nothing while the context is open; runs the model without a cache.

        Raises:
            IndexError: on entering, if an index names no player.
            UnsupportedModelError: on entering, if other blocks cannot run without an absent part.
        """
        running = checked_indices(present, self.stages()[-1].stop)
        needed = needed_blocks(self.decoder)
        for index, reason in needed.items():
            for player, part in zip(self.stages()[index], self.blocks[index], strict=True):
                if player not in running and part.kind != "mlp":
                    raise UnsupportedModelError(f"player {player} cannot be absent: {reason}")
        with ExitStack() as stack:
            stack.enter_context(without_cache(self.decoder.owner))
            for index, stage in enumerate(self.stages()):
                stack.enter_context(self.only(index, [player in running for player in stage]))
            yield

    @contextmanager
    def only(self, index: int, present: Collection[bool]) -> Iterator[None]:
        """Run a block with some of its parts while the context is open."""
        absent = [part for part, runs in zip(self.blocks[index], present, strict=True) if not runs]
        with replaced_blocks(silenced(self.decoder.blocks[index], absent)):
            yield

    def _of(self, own: list[list[nn.Parameter]], index: int, part: Part) -> list[nn.Parameter]:
        """Those of the blocks' own parameters that only one part uses."""
        block = self.decoder.blocks[index]
        elsewhere = {
            id(weight)
            for other in self.blocks[index]
            if other is not part
            for weight in other.parameters(block)
        }
        mine = {id(weight) for weight in part.parameters(block)} - elsewhere
        return [weight for weight in own[index] if id(weight) in mine]

    def _part(self, name: str) -> tuple[int, Part]:
        return next(
            (index, part)
            for index, parts in enumerate(self.blocks)
            for part in parts
            if name == f"{self.decoder.stack}.{index}.{part.path}"
        )
