"""The experts of a model as players, numbered layer after layer."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from shapcut.contracts import Player
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.decoder import Decoder, find_decoder
from shapcut_adapters.transformers.experts.layout import Mixture, find_mixtures
from shapcut_adapters.transformers.experts.partial import present_experts
from shapcut_adapters.transformers.experts.removal import removal_objection, remove_experts


@dataclass(frozen=True, slots=True)
class Experts:
    """A decoder with its experts as players.

    Attributes:
        decoder: the model.
        mixtures: the mixture of each layer; None for a layer without.
    """

    decoder: Decoder
    mixtures: list[Mixture | None]

    @staticmethod
    def of(model: nn.Module) -> "Experts":
        """The experts of a model.

        Raises:
            UnsupportedModelError: if it has none, or experts that cannot be told apart or counted.
        """
        decoder = find_decoder(model)
        return Experts(decoder, find_mixtures(decoder))

    def stages(self) -> list[range]:
        """The players of each layer; an empty range for a layer without."""
        counts = [mixture.count if mixture else 0 for mixture in self.mixtures]
        return [range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]

    def players(self) -> tuple[Player, ...]:
        """One player per expert; one group per layer, or per group of its router."""
        return tuple(player for mixture, first in self._numbered() for player in _players(mixture, first))

    @contextmanager
    def bypass(self, present: Collection[int]) -> Iterator[None]:
        """Route tokens only to the players in ``present`` while the context is open."""
        kept = self._kept(present)
        with ExitStack() as stack:
            for mixture, experts in kept:
                if len(experts) < mixture.count:
                    stack.enter_context(present_experts(mixture, experts))
            yield

    def objection(self, absent: Collection[int]) -> str:
        """Why a set cannot be removed; empty if it can."""
        return removal_objection(self.decoder.model, self._without(absent))

    def remove(self, absent: Collection[int]) -> nn.Module:
        """Remove players for good, in place."""
        if absent:
            remove_experts(self.decoder, self._without(absent))
        return self.decoder.model

    def weights(self, player: Player) -> list[Tensor]:
        """Views of the tensors' slices that only one player uses."""
        path, _, expert = player.name.rpartition(".")
        mixture = next(mixture for mixture, _ in self._numbered() if mixture.path == path)
        tensors = [(table, table.of(mixture.module).detach()) for table in mixture.tables]
        return [table.view(tensor, int(expert)) for table, tensor in tensors]

    def _numbered(self) -> Iterator[tuple[Mixture, int]]:
        """The mixtures, each with the number of its first expert among all players."""
        for mixture, players in zip(self.mixtures, self.stages(), strict=True):
            if mixture is not None:
                yield mixture, players.start

    def _without(self, absent: Collection[int]) -> list[tuple[Mixture, list[int]]]:
        n_players = self.stages()[-1].stop
        gone = checked_indices(absent, n_players)
        return self._kept(frozenset(range(n_players)) - gone)

    def _kept(self, present: Collection[int]) -> list[tuple[Mixture, list[int]]]:
        """The experts of each mixture among some players."""
        running = checked_indices(present, self.stages()[-1].stop)
        return [
            (mixture, [number - first for number in range(first, first + mixture.count) if number in running])
            for mixture, first in self._numbered()
        ]


def _players(mixture: Mixture, first: int) -> Iterator[Player]:
    """The experts of one layer; what holds for all of them is found once."""
    fewer = [each for each in range(mixture.count) if each % (mixture.count // mixture.groups)]
    reason, parameters = mixture.objection(fewer), mixture.expert_parameters()
    for expert in range(mixture.count):
        yield Player(
            first + expert,
            f"{mixture.path}.{expert}",
            "expert",
            parameters,
            removable=not reason,
            reason=reason,
            group=mixture.layer * mixture.groups + mixture.group_of(expert),
        )
