"""Rules by which config fields follow the kept layers; each is exact or objects."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Cut:
    """The kept layers among ``depth``, in order."""

    depth: int
    kept: tuple[int, ...]

    @property
    def absent(self) -> tuple[int, ...]:
        """The removed layers."""
        return tuple(index for index in range(self.depth) if index not in self.kept)

    def of(self, values: Sequence[Any]) -> list[Any]:
        """The entries of the kept layers."""
        return [values[index] for index in self.kept]

    def renumbered(self, indices: Collection[int]) -> list[int]:
        """The new indices of the kept layers among ``indices``."""
        return [new for new, old in enumerate(self.kept) if old in indices]


@dataclass(frozen=True, slots=True)
class Rule:
    """The consequences of one fact about a family for a cut; by default none."""

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:  # noqa: ARG002
        """New values of config fields."""
        return {}

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:  # noqa: ARG002
        """Why the cut cannot be exact; empty if it can."""
        return ""

    def pinned(self, config: PretrainedConfig, depth: int) -> dict[int, str]:
        """Layers that can never be removed, with the reason."""
        return self.needed(config, depth)

    def needed(self, config: PretrainedConfig, depth: int) -> dict[int, str]:  # noqa: ARG002
        """Layers without which others cannot run, with the reason."""
        return {}


@dataclass(frozen=True, slots=True)
class Condition(Rule):
    """A setting without which no removal is exact."""

    field: str
    value: object
    otherwise: str

    def unmet(self, config: PretrainedConfig) -> str:
        """The reason, if the setting differs."""
        value = getattr(config, self.field)
        return "" if value == self.value else f"{self.otherwise} ({self.field}={value})"

    def pinned(self, config: PretrainedConfig, depth: int) -> dict[int, str]:
        """All layers, if the setting differs."""
        reason = self.unmet(config)
        return dict.fromkeys(range(depth), reason) if reason else {}


@dataclass(frozen=True, slots=True)
class Count(Rule):
    """Another field that counts the layers."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:  # noqa: ARG002
        """The number of kept layers."""
        return {self.field: len(cut.kept)}


@dataclass(frozen=True, slots=True)
class PerLayerList(Rule):
    """A list with one entry per layer.

    Attributes:
        field: the config field that is written.
        source: the field or property that entries are read from, if it is another one.
        spelling: the written field's names for entries of the source, if they differ.
    """

    field: str
    source: str = ""
    spelling: tuple[tuple[str, Any], ...] = ()

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The entries of the kept layers."""
        values = getattr(config, self.source or self.field)
        if not isinstance(values, (list, tuple)):  # absent, or one value for all layers
            return {}
        spelling = dict(self.spelling)
        return {
            self.field: [spelling.get(value, value) for value in cut.of(values)]
            if spelling
            else cut.of(values)
        }


@dataclass(frozen=True, slots=True)
class IndexList(Rule):
    """A list of layer indices."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The new indices of the kept layers in the list."""
        listed = getattr(config, self.field)
        return {} if listed is None else {self.field: cut.renumbered(listed)}


@dataclass(frozen=True, slots=True)
class IndexKeyed(Rule):
    """A dictionary keyed by layer index, as a number or as text."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The entries of the kept layers, under their new indices."""
        entries = config.to_dict().get(self.field) or {}
        new_index = {old: new for new, old in enumerate(cut.kept)}
        kept = {new_index[int(key)]: value for key, value in entries.items() if int(key) in new_index}
        return {self.field: kept} if entries else {}


@dataclass(frozen=True, slots=True)
class PrefixCount(Rule):
    """A count of first layers that are of another kind."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The number of them that stay."""
        count = getattr(config, self.field)
        return {} if count is None else {self.field: sum(index < count for index in cut.kept)}


@dataclass(frozen=True, slots=True)
class SuffixCount(Rule):
    """A count of last layers that are of another kind."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The number of them that stay."""
        first = cut.depth - getattr(config, self.field)
        return {self.field: sum(index >= first for index in cut.kept)}


@dataclass(frozen=True, slots=True)
class ScaledByDepth(Rule):
    """A factor that is divided by the square root of the depth on use."""

    field: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The factor with the same effect as at the old depth, to 12 digits, so that cuts compose."""
        factor = getattr(config, self.field) * (len(cut.kept) / cut.depth) ** 0.5
        return {self.field: float(f"{factor:.12g}")}


@dataclass(frozen=True, slots=True)
class EveryNth(Rule):
    """Layers are of a kind if their number, from 1, is a multiple of a step and not in a list of exceptions.

    Attributes:
        step: the field with the step.
        excepted: the field with the list of layer indices that are not of the kind.
    """

    step: str
    excepted: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """A step of 1, with every exception in the list."""
        step, excepted = getattr(config, self.step), getattr(config, self.excepted) or []
        others = [i for i in range(cut.depth) if i in excepted or (i + 1) % step]
        return {self.step: 1, self.excepted: cut.renumbered(others)}


@dataclass(frozen=True, slots=True)
class IndexRange(Rule):
    """Layers are of a kind from a first to a last index, if their number, from 1, is a multiple of a step."""

    first: str
    last: str
    step: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """The new range of the kind; beyond the last layer if none stays."""
        inside = cut.renumbered(self._inside(config, cut.depth))
        if not inside:
            return {self.first: len(cut.kept), self.last: len(cut.kept), self.step: 1}
        distances = {after - before for before, after in pairwise(inside)}
        return {self.first: inside[0], self.last: inside[-1], self.step: self._steps(inside, distances)}

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:
        """Objects if the kind's layers would not be evenly spaced."""
        edited = self.edited(config, cut)
        wanted = cut.renumbered(self._inside(config, cut.depth))
        step, first, last = edited[self.step], edited[self.first], edited[self.last]
        if [i for i in range(len(cut.kept)) if first <= i <= last and (i + 1) % step == 0] == wanted:
            return ""
        return f"the config's {self.first}, {self.last} and {self.step} cannot say which layers are mixtures"

    def _inside(self, config: PretrainedConfig, depth: int) -> list[int]:
        first, last, step = (getattr(config, name) for name in (self.first, self.last, self.step))
        return [i for i in range(depth) if first <= i <= last and (i + 1) % step == 0]

    @staticmethod
    def _steps(inside: Sequence[int], distances: Collection[int]) -> int:
        return inside[0] + 1 if not distances else min(distances)


@dataclass(frozen=True, slots=True)
class Periodic(Rule):
    """Layers are of a kind if ``index % period == offset``."""

    period: str
    offset: str

    def edited(self, config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
        """A period and an offset that reproduce the kept layers' kinds, if they exist."""
        found = self._found(config, cut)
        return {} if found is None else {self.period: found[0], self.offset: found[1]}

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:
        """Objects if no period and offset reproduce the kept layers' kinds."""
        if self._found(config, cut) is not None:
            return ""
        return (
            f"the config's {self.period} and {self.offset} cannot say which kinds the layers that stay have"
        )

    def _found(self, config: PretrainedConfig, cut: Cut) -> tuple[int, int] | None:
        period, offset = getattr(config, self.period), getattr(config, self.offset)
        places = cut.renumbered([i for i in range(cut.depth) if i % period == offset])
        n_kept = len(cut.kept)
        if not places:
            return n_kept + 1, n_kept
        step = places[1] - places[0] if len(places) > 1 else max(n_kept, period)
        first = places[0]
        if first >= step or places != list(range(first, n_kept, step)):
            return None
        return step, first


@dataclass(frozen=True, slots=True)
class AtLeast(Rule):
    """A minimum number of layers of a kind must stay (or all, if there are fewer).

    Attributes:
        count: the minimum number.
        kinds: the kinds that count.
        field: the list with each layer's kind.
        otherwise: the consequence of fewer layers.
    """

    count: int
    kinds: tuple[str, ...]
    field: str
    otherwise: str

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:
        """Objects if too few of them would stay."""
        types = getattr(config, self.field)
        there = sum(kind in self.kinds for kind in types)
        stay = sum(types[index] in self.kinds for index in cut.kept)
        if stay >= min(self.count, there):
            return ""
        return f"{stay} {' or '.join(self.kinds)} layers would stay: {self.otherwise}"


@dataclass(frozen=True, slots=True)
class Pinned(Rule):
    """Layers whose structure differs from their replacements'.

    Attributes:
        positions: indices, negative ones from the end.
        reason: how they are different.
    """

    positions: tuple[int, ...]
    reason: str

    def pinned(self, config: PretrainedConfig, depth: int) -> dict[int, str]:  # noqa: ARG002
        """The positions and the reason."""
        return {position % depth: self.reason for position in self.positions}


@dataclass(frozen=True, slots=True)
class CyclicOrder(Rule):
    """Layers of a kind take turns in sharing the weights of a few modules.

    Attributes:
        count: the field with the number of shared modules.
        field: the list with each layer's kind.
        kind: the kind that shares.
    """

    count: str
    field: str
    kind: str

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:
        """Objects if a layer would use another module, or a module would serve no layer."""
        modules, kinds = getattr(config, self.count), getattr(config, self.field)
        sharing = [index for index, kind in enumerate(kinds) if kind == self.kind]
        turns = [turn % modules for turn, index in enumerate(sharing) if index in cut.kept]
        if len(turns) < modules:
            return f"{len(turns)} {self.kind} layers would stay for {modules} shared modules"
        if turns != [turn % modules for turn in range(len(turns))]:
            return f"{self.kind} layers share {modules} modules in turn, and their turns would shift"
        return ""


@dataclass(frozen=True, slots=True)
class NeededKind(Rule):
    """Layers of a kind that others depend on.

    Attributes:
        kind: the kind.
        field: the list, or property, with each layer's kind.
        reason: how the others depend on them.
    """

    kind: str
    field: str
    reason: str

    def needed(self, config: PretrainedConfig, depth: int) -> dict[int, str]:
        """The positions of the kind's layers."""
        return {
            index: self.reason for index in range(depth) if getattr(config, self.field)[index] == self.kind
        }


@dataclass(frozen=True, slots=True)
class NeededFirst(Rule):
    """The first layer computes an input of layers of another kind.

    Attributes:
        users: the kind that uses it.
        field: the list with each layer's kind.
        reason: the computed input.
    """

    users: str
    field: str
    reason: str

    def needed(self, config: PretrainedConfig, depth: int) -> dict[int, str]:  # noqa: ARG002
        """The first layer, if there are layers that use it."""
        return {0: self.reason} if self.users in (getattr(config, self.field) or ()) else {}


@dataclass(frozen=True, slots=True)
class LastKind(Rule):
    """The last kept layer must be of the kind that the config assigns to the last layer.

    Attributes:
        kind: the kind.
        field: the list with each layer's kind.
    """

    kind: str
    field: str

    def objection(self, config: PretrainedConfig, cut: Cut) -> str:
        """Objects if the new last layer is of another kind."""
        last = cut.kept[-1]
        kind = getattr(config, self.field)[last]
        if kind == self.kind:
            return ""
        return (
            f"layer {last} would be the last and is of kind {kind}; the config makes the last one {self.kind}"
        )


@dataclass(frozen=True, slots=True)
class NeverExact(Rule):
    """A family whose layers compute differently at another index, which no config field can express."""

    reason: str

    def pinned(self, config: PretrainedConfig, depth: int) -> dict[int, str]:  # noqa: ARG002
        """All layers."""
        return dict.fromkeys(range(depth), self.reason)
