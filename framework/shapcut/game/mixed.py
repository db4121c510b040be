"""Games whose players are parts of layers and the experts in them."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shapcut.game.coalitions import Player


@dataclass(frozen=True, slots=True)
class MixedLayer:
    """The players of one layer.

    Attributes:
        name: the layer's dotted path.
        parts: its parts, which are in no group.
        experts: its experts, which are; empty if it has none.
        owner: the part that the experts are in; None without experts.
    """

    name: str
    parts: tuple[int, ...]
    experts: tuple[int, ...]
    owner: int | None

    @property
    def players(self) -> tuple[int, ...]:
        """All of them: without these the layer is gone."""
        return (*self.parts, *self.experts)

    @property
    def mixture(self) -> tuple[int, ...]:
        """The part that the experts are in, with them; empty without experts."""
        return () if self.owner is None else (self.owner, *self.experts)


def mixed_layers(players: Sequence[Player]) -> tuple[MixedLayer, ...]:
    """The layers of a game of parts and experts; empty for any other game.

    An expert is named below its part, and a part below its layer, whose name ends with a number.
    """
    if len({player.group is None for player in players}) == 1:
        return ()
    return tuple(_mixed_layer(name, members) for name, members in by_layer(players).items())


def removed_parts(players: Sequence[Player], removed: Collection[int]) -> dict[str, tuple[int, ...]]:
    """The blocks, counted from 0, that lose each kind of part."""
    found: dict[str, list[int]] = {}
    for block, parts in enumerate(by_layer(players).values()):
        for part in parts:
            if part.index in removed:
                found.setdefault(part.kind, []).append(block)
    return {kind: tuple(blocks) for kind, blocks in found.items()}


def by_layer(players: Sequence[Player]) -> dict[str, list[Player]]:
    """The players of each layer, by its dotted path."""
    found: dict[str, list[Player]] = {}
    for player in players:
        found.setdefault(_layer(player.name), []).append(player)
    return found


def _layer(name: str) -> str:
    """The part of a name that ends with its first number."""
    words = name.split(".")
    number = next((place for place, word in enumerate(words) if word.isdecimal()), len(words) - 1)
    return ".".join(words[: number + 1])


def _mixed_layer(name: str, members: Sequence[Player]) -> MixedLayer:
    parts = [player for player in members if player.group is None]
    experts = [player for player in members if player.group is not None]
    owners = [part.index for part in parts if experts and experts[0].name.startswith(f"{part.name}.")]
    return MixedLayer(
        name,
        tuple(part.index for part in parts),
        tuple(expert.index for expert in experts),
        owners[0] if owners else None,
    )


def is_mixed_cut(players: Sequence[Player], absent: Collection[int]) -> bool:
    """Whether absent parts take their experts with them, and equally many are absent of all other groups."""
    gone = set(absent)
    counts: Counter[int | None] = Counter()
    for layer in mixed_layers(players):
        if layer.owner in gone:
            if not gone.issuperset(layer.experts):
                return False
            continue
        for expert in layer.experts:
            counts[players[expert].group] += expert in gone
    return len(set(counts.values())) <= 1


def mixed_summary(players: Sequence[Player], absent: Collection[int]) -> str:
    """What is removed of each kind, with the parameters that it frees."""
    gone, layers = set(absent), mixed_layers(players)
    whole = [layer for layer in layers if gone.issuperset(layer.players)]
    mixtures = [layer for layer in layers if layer.owner in gone and layer not in whole]
    left = [layer for layer in layers if layer.owner is not None and layer.owner not in gone]
    blocks = [player for layer in whole for player in layer.players]
    parts = [player for layer in mixtures for player in layer.mixture]
    experts = [player for layer in left for player in layer.experts if player in gone]
    others = sorted(gone.difference(blocks, parts, experts))
    each = len(experts) // max(1, len(left))
    other = " other" if whole or mixtures else ""
    said = [
        (f"{len(whole)} block{_s(whole)}", blocks),
        (f"{len(mixtures)} MoE part{_s(mixtures)}", parts),
        (f"{each} of {len(left[0].experts) if left else 0} experts of each{other} layer", experts),
        (f"{len(others)} other part{_s(others)}", others),
    ]
    return ", ".join(
        f"{what} ({_millions(sum(players[player].parameters for player in some))})"
        for what, some in said
        if some
    )


def _s(several: Collection[object]) -> str:
    return "" if len(several) == 1 else "s"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g} M"
