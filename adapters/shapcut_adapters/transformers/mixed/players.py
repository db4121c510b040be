"""The parts of each block as players, each block's followed by its experts."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import nn

from shapcut.contracts import CheckpointForm, Player, UnsupportedModelError
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.experts.layout import Mixture
from shapcut_adapters.transformers.experts.players import Experts
from shapcut_adapters.transformers.experts.removal import removal_objection, remove_experts
from shapcut_adapters.transformers.sublayers.players import SubLayers
from shapcut_adapters.transformers.sublayers.removal import (
    Objections,
    form_objections,
    parts_remnants,
    plain_objection,
    remove_parts,
    require_form,
)


@dataclass(frozen=True, slots=True)
class MixedLayer:
    """The players of one block.

    Attributes:
        parts: numbers of its parts, in execution order.
        experts: numbers of its experts; empty if it has no mixture.
        owner: number of the part that the experts are in; None if it has no mixture.
        mixture: its mixture, or None.
    """

    parts: range
    experts: range
    owner: int | None
    mixture: Mixture | None

    @property
    def players(self) -> range:
        """All of them."""
        return range(self.parts.start, self.experts.stop)

    def names_experts_alone(self, gone: Collection[int]) -> bool:
        """Whether the part of the experts is among some players, but not each of them."""
        return self.owner in gone and not set(gone).issuperset(self.experts)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A decoder with the parts of its blocks and its experts as players.

    A part with a mixture counts what is not an expert's. An absent one takes its experts with it, so a set
    without it has to name them too.

    Attributes:
        sublayers: the model and the parts of its blocks.
        experts: the model and its experts.
        owners: for each block, the place of the part that its experts are in; None without experts.
    """

    sublayers: SubLayers
    experts: Experts
    owners: tuple[int | None, ...]

    @staticmethod
    def of(model: nn.Module) -> "Mixed":
        """The parts and experts of a model.

        Raises:
            UnsupportedModelError: if it has no experts, or its blocks do not come apart.
        """
        experts = Experts.of(model)
        sublayers = SubLayers.of(model)
        blocks = enumerate(zip(experts.mixtures, sublayers.blocks, strict=True))
        stack, name = sublayers.decoder.stack, type(model).__name__
        owners = []
        for index, (mixture, parts) in blocks:
            places = [
                place
                for place, part in enumerate(parts)
                if mixture is not None and mixture.path.startswith(f"{stack}.{index}.{part.path}.")
            ]
            if mixture is not None and [parts[place].kind for place in places] != ["mlp"]:
                raise UnsupportedModelError(
                    f"the experts of a {name} are not in the MLP of their block; use block or expert"
                )
            owners.append(places[0] if places else None)
        return Mixed(sublayers, experts, tuple(owners))

    def layers(self) -> list[MixedLayer]:
        """The players of each block."""
        counts = [
            (len(parts), mixture.count if mixture else 0)
            for parts, mixture in zip(self.sublayers.blocks, self.experts.mixtures, strict=True)
        ]
        ends = accumulate(map(sum, counts))
        found = []
        for (parts, experts), end, owner, mixture in zip(
            counts, ends, self.owners, self.experts.mixtures, strict=True
        ):
            start = end - parts - experts
            number = None if owner is None else start + owner
            found.append(MixedLayer(range(start, start + parts), range(end - experts, end), number, mixture))
        return found

    def players(self) -> tuple[Player, ...]:
        """The players of each block, its parts first; experts are in groups, parts in none."""
        parts, experts = iter(self.sublayers.players()), iter(self.experts.players())
        found: list[Player] = []
        for layer in self.layers():
            for number in layer.parts:
                part = replace(next(parts), index=number)
                if layer.mixture is not None and number == layer.owner:
                    of_experts = layer.mixture.count * layer.mixture.expert_parameters()
                    part = replace(part, parameters=part.parameters - of_experts)
                found.append(part)
            found += [replace(next(experts), index=number) for number in layer.experts]
        return tuple(found)

    @contextmanager
    def bypass(self, present: Collection[int]) -> Iterator[None]:
        """Let absent parts add nothing, and route tokens only to present experts."""
        layers = self.layers()
        running = checked_indices(present, layers[-1].players.stop)
        with ExitStack() as stack:
            stack.enter_context(self.sublayers.bypass(_places((each.parts for each in layers), running)))
            idle = {expert for each in layers if each.owner not in running for expert in each.experts}
            routed = _places((each.experts for each in layers), running | idle)
            stack.enter_context(self.experts.bypass(routed))
            yield

    def objection(self, absent: Collection[int]) -> str:
        """Why a set cannot be removed for plain libraries; empty if it can."""
        return self._expert_objection(absent) or plain_objection(self.sublayers, self._parts(absent))

    def form_objections(self, absent: Collection[int]) -> Objections:
        """Each form of a checkpoint, best first, with what speaks against it."""
        if objection := self._expert_objection(absent):
            return {"same": objection}
        return form_objections(self.sublayers, self._parts(absent))

    def remove(self, absent: Collection[int], form: CheckpointForm) -> nn.Module:
        """The model without some players, in place for the form ``same``; experts go first.

        Raises:
            UnsupportedModelError: before the model is touched, if the form does not fit the set.
        """
        if objection := self._expert_objection(absent):
            raise UnsupportedModelError(objection)
        parts = self._parts(absent)
        require_form(self.sublayers, parts, form)
        kept = self._kept(absent)
        if any(len(experts) < mixture.count for mixture, experts in kept):
            left = len(kept[0][1])
            staying = {mixture.layer for mixture, _ in kept}
            going = [each for each in self.experts.mixtures if each and each.layer not in staying]
            remove_experts(self.sublayers.decoder, [*kept, *((each, _first(each, left)) for each in going)])
        return remove_parts(self.sublayers, parts, form) if parts else self.sublayers.decoder.model

    def remnants(self, absent: Collection[int], form: CheckpointForm) -> int:
        """The number of parameters that the form keeps in the place of absent parts."""
        return parts_remnants(self.sublayers, self._parts(absent), form)

    def _expert_objection(self, absent: Collection[int]) -> str:
        """Why what is left of the mixtures cannot be written; empty if it can."""
        layers = self.layers()
        gone = checked_indices(absent, layers[-1].players.stop)
        for layer in layers:
            if layer.names_experts_alone(gone):
                return (
                    f"player {layer.owner} takes its experts with it: name players {layer.experts.start} to "
                    f"{layer.experts[-1]}, too"
                )
        kept = self._kept(gone)
        if all(len(experts) == mixture.count for mixture, experts in kept):
            return ""
        return removal_objection(self.sublayers.decoder.model, kept)

    def _kept(self, absent: Collection[int]) -> list[tuple[Mixture, list[int]]]:
        """The experts that stay in each layer whose mixture stays."""
        return [
            (each.mixture, [place for place, number in enumerate(each.experts) if number not in absent])
            for each in self.layers()
            if each.mixture is not None and each.owner not in absent
        ]

    def _parts(self, absent: Collection[int]) -> frozenset[int]:
        """The parts among some players, numbered without experts."""
        return _places((layer.parts for layer in self.layers()), absent)


def _places(ranges: Iterable[range], chosen: Collection[int]) -> frozenset[int]:
    """The places of chosen numbers among those of some ranges, one after the other."""
    numbers = (number for each in ranges for number in each)
    return frozenset(place for place, number in enumerate(numbers) if number in chosen)


def _first(mixture: Mixture, left: int) -> list[int]:
    """So many experts, the first ones of each group of the router."""
    of_group, each = mixture.count // mixture.groups, left // mixture.groups
    return [expert for expert in range(mixture.count) if expert % of_group < each]
