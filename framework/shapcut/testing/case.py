"""An example model of an adapter under check."""

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.game.checkpoint_form import AllowedForm, CheckpointForm
from shapcut.game.coalitions import Player
from shapcut.game.feasible import permitted_sets
from shapcut.game.granularity import Granularity
from shapcut.game.mixed import mixed_layers
from shapcut.models.adapter import Adapter, Example
from shapcut.models.forms import chosen_form, form_objection
from shapcut.models.layer_stack import LayerStack, State
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.support.suggest import did_you_mean
from shapcut.testing.comparison import Comparison, identical, require

BATCH = 3
_RANDOM_SIZES = (1, 2, 3, 4)
_DRAWS = 32
_PER_GROUP = (1, 2)
_OF_LAYERS = ((1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""How many layers, how many parts with their experts, and how many experts of each other group."""
_PROBED = 12
_SEARCHED = 2


class Case:
    """An example model under check. The model itself never runs or changes: checks work on copies.

    Args:
        adapter: the adapter under test.
        name: the example's name.
        model: the canonical example model.
        input_ids: three different token sequences, shape (3, length).
        seed: of the random sets of players.
        granularity: what a player is.
        form: ``plain``, or ``remote-code`` to write what needs code of its own.
    """

    def __init__(
        self,
        adapter: Adapter,
        name: str,
        model: nn.Module,
        input_ids: Tensor,
        *,
        seed: int,
        granularity: Granularity = "block",
        form: AllowedForm = "plain",
    ) -> None:
        self.adapter = adapter
        self.name = name
        self.model = model
        self.input_ids = input_ids
        self.seed = seed
        self.granularity = granularity
        self.form = form
        self._references: dict[frozenset[int], Tensor] = {}
        self._removed: dict[frozenset[int], nn.Module] = {}
        self._comparisons: list[Comparison] = []

    def to(self, device: torch.device) -> "Case":
        """The same example on another device."""
        model, input_ids = copy.deepcopy(self.model).to(device), self.input_ids.to(device)
        return Case(
            self.adapter,
            self.name,
            model,
            input_ids,
            seed=self.seed,
            granularity=self.granularity,
            form=self.form,
        )

    def placed(self, model: nn.Module) -> nn.Module:
        """A model that was read from files, on the device of this case."""
        return model.to(self.input_ids.device)

    def fresh(self) -> nn.Module:
        """A copy of the model."""
        return copy.deepcopy(self.model)

    @cached_property
    def players(self) -> tuple[Player, ...]:
        """The players of the whole model."""
        return self.players_of(self.model)

    def players_of(self, model: nn.Module) -> tuple[Player, ...]:
        """The players of a model."""
        return self.adapter.players(model, self.granularity)

    def bypass(self, model: nn.Module, present: Collection[int]) -> AbstractContextManager[None]:
        """A context in which only ``present`` run."""
        return self.adapter.bypass(model, present, self.granularity)

    def stack(self, model: nn.Module) -> LayerStack | None:
        """The model's layer stack, or None."""
        return self.adapter.stack(model, self.granularity)

    def remove(self, model: nn.Module, absent: Collection[int]) -> nn.Module:
        """The model without ``absent``; may be the same object."""
        form = self.form_of(model, absent) if self.form == "remote-code" else None
        if form is None:
            return self.adapter.remove(model, absent, self.granularity)
        return self.adapter.remove_as(model, absent, self.granularity, form)

    def refusal(self, model: nn.Module, absent: Collection[int]) -> str | None:
        """Why ``absent`` cannot be removed, or None."""
        if self.form == "remote-code":
            return form_objection(self.adapter, model, absent, self.granularity, self.form)
        return self.adapter.can_remove(model, absent, self.granularity)

    def form_of(self, model: nn.Module, absent: Collection[int]) -> CheckpointForm | None:
        """The form in which ``absent`` is removed, or None."""
        return chosen_form(self.adapter, model, absent, self.granularity, self.form)

    def remnants(self, absent: Collection[int]) -> int:
        """The number of parameters that stay in the place of ``absent``."""
        form = self.form_of(self.model, absent)
        return 0 if form is None else self.adapter.remnants(self.model, absent, self.granularity, form)

    @cached_property
    def full(self) -> Tensor:
        """Logits with all players present."""
        return self.logits(self.fresh())

    @cached_property
    def _warm_copy(self) -> nn.Module:
        return self.fresh()

    @property
    def no_removal(self) -> str:
        """Why no player can be removed; empty if one can."""
        return "" if any(player.removable for player in self.players) else self.players[0].reason

    @cached_property
    def absentable(self) -> tuple[int, ...]:
        """The players that can be absent while the model runs.

        All players except those that are neither removable nor accepted by bypass.

        Raises:
            ConformanceError: if there are none.
        """
        needed = {player.index for player in self.players if not player.removable and self._is_needed(player)}
        require(len(needed) < len(self.players), "vacuous: no player can be absent")
        return tuple(player.index for player in self.players if player.index not in needed)

    def _is_needed(self, player: Player) -> bool:
        try:
            self.bypassing(self.model, self.present({player.index}))
        except UnsupportedModelError:
            return True
        return False

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The players of each group that must lose equally many; empty if there are none."""
        members: dict[int, list[int]] = {}
        for player in self.players:
            if player.group is not None:
                members.setdefault(player.group, []).append(player.index)
        return tuple(tuple(group) for group in members.values())

    @cached_property
    def probed(self) -> tuple[int, ...]:
        """The players that are tried one by one: all that can be absent, or a sample of those in groups.

        An example need not use every player of a group (no token may be routed to an expert), so the sample
        has those whose absence shows.

        Raises:
            ConformanceError: if most absences in the sample change nothing.
        """
        if not self.groups:
            return self.absentable
        generator = np.random.default_rng(self.seed)
        size = min(_PROBED, len(self.absentable))
        sample = sorted(generator.choice(self.absentable, size=size, replace=False).tolist())
        showing = [player for player in sample if Comparison(self.full).shows(self.reference({player}))]
        require(2 * len(showing) > size, f"vacuous: {size - len(showing)} of {size} absences change nothing")
        return tuple(showing)

    @cached_property
    def absences(self) -> tuple[frozenset[int], ...]:
        """Sets of absent players: the first, the last, both, and random sets of one to four.

        If players are in groups, also one and two of each group. Of parts and experts, also layers, parts
        with their experts, and these with experts of the other layers.
        """
        generator = np.random.default_rng(self.seed)
        first, last = self.probed[0], self.probed[-1]
        drawn = [self._drawn(size, generator) for size in _RANDOM_SIZES]
        evenly = [self._drawn_evenly(size, generator) for size in _PER_GROUP if self.groups]
        evenly += self._drawn_of_layers(generator)
        sets = (frozenset({first}), frozenset({last}), frozenset({first, last}), *drawn, *evenly)
        return tuple(dict.fromkeys(sets))

    @cached_property
    def requests(self) -> dict[frozenset[int], str | None]:
        """Sets to remove, each with the adapter's refusal or None.

        The sets of `absences`; for a size without a removable set, further draws until one is found. Parts of
        blocks may be removable in few combinations, which are searched for.
        """
        asked = {absent: self.refusal(self.model, absent) for absent in self.absences}
        generator = np.random.default_rng(self.seed + 1)
        for size in _RANDOM_SIZES if not self.groups else ():
            for _ in range(_DRAWS):
                if any(refusal is None and len(absent) == size for absent, refusal in asked.items()):
                    break
                absent = self._drawn(size, generator)
                asked[absent] = self.refusal(self.model, absent)
            if self.granularity != "block":
                asked |= dict.fromkeys(self._permitted(size, generator))
        return asked

    def _permitted(self, size: int, generator: np.random.Generator) -> list[frozenset[int]]:
        """Some removable sets of a size, if there are any."""

        def permits(absent: Sequence[int]) -> bool:
            return self.refusal(self.model, absent) is None

        return [
            frozenset(absent) for absent in permitted_sets(self.probed, size, permits, _SEARCHED, generator)
        ]

    def _drawn(self, size: int, generator: np.random.Generator) -> frozenset[int]:
        most = min(len(self.probed), len(self.players) - 1)
        chosen = generator.choice(self.probed, size=min(size, most), replace=False)
        return frozenset(chosen.tolist())

    def _drawn_evenly(self, size: int, generator: np.random.Generator) -> frozenset[int]:
        """So many players of each group."""
        chosen = [generator.choice(group, size=min(size, len(group)), replace=False) for group in self.groups]
        return frozenset(int(player) for group in chosen for player in group)

    def _drawn_of_layers(self, generator: np.random.Generator) -> list[frozenset[int]]:
        """Sets of parts and experts, see `_OF_LAYERS`; none of other players."""
        layers = mixed_layers(self.players)
        mixtures = [place for place, layer in enumerate(layers) if layer.experts]
        found = []
        for whole, part, each in _OF_LAYERS if layers else ():
            order = generator.permutation(len(layers)).tolist()
            gone = {player for place in order[:whole] for player in layers[place].players}
            left = [place for place in order[whole:] if place in mixtures]
            gone.update(player for place in left[:part] for player in layers[place].mixture)
            staying = {expert for place in left[part:] for expert in layers[place].experts}
            for group in self.groups:
                if staying.issuperset(group):
                    gone.update(generator.choice(group, size=each, replace=False).tolist())
            found.append(frozenset(gone))
        return found

    @property
    def same_sets(self) -> tuple[frozenset[int], ...]:
        """The removable sets without which the model is one of its family."""
        return tuple(each for each in self.removable_sets if self.form_of(self.model, each) == "same")

    def first_of(self, absent: frozenset[int]) -> frozenset[int]:
        """A part of a set that can be removed first; empty if there is none."""
        if layers := mixed_layers(self.players):
            inside = (frozenset(layer.players) for layer in layers)
            return next((layer for layer in inside if layer < absent), frozenset())
        if self.granularity != "sublayer":
            return self.one_per_group(absent)
        pairs = map(frozenset, combinations(sorted(absent), 2))
        return next((pair for pair in pairs if self.form_of(self.model, pair) == "same"), frozenset())

    def one_per_group(self, absent: Collection[int]) -> frozenset[int]:
        """The first player of a set in each group, or the first one if players are in no groups."""
        if not self.groups:
            return frozenset({min(absent)})
        return frozenset(min(set(group).intersection(absent)) for group in self.groups)

    @cached_property
    def removable_sets(self) -> tuple[frozenset[int], ...]:
        """The sets of `requests` that can be removed.

        Raises:
            ConformanceError: if there are none although players claim to be removable.
        """
        permitted = tuple(absent for absent, refusal in self.requests.items() if refusal is None)
        require(permitted, "vacuous: the adapter can remove none of the sets that were tried")
        return permitted

    @property
    def telling_sets(self) -> tuple[frozenset[int], ...]:
        """The smallest and the largest removable set, for slow checks."""
        sets = sorted(self.removable_sets, key=len)
        return tuple(dict.fromkeys((sets[0], sets[-1])))

    def logits(self, model: nn.Module) -> Tensor:
        """Logits of a model on the case's tokens."""
        return self.adapter.logits(model, self.input_ids)

    def present(self, absent: Collection[int]) -> frozenset[int]:
        """The complement of ``absent``."""
        return frozenset(range(len(self.players))) - frozenset(absent)

    def bypassed(self, model: nn.Module, absent: Collection[int]) -> Tensor:
        """Logits of a model while players are bypassed."""
        with self.bypass(model, self.present(absent)):
            return self.logits(model)

    def bypassing(self, model: nn.Module, present: Collection[int]) -> None:
        """Enter and leave a bypass without running the model."""
        with self.bypass(model, present):
            pass

    def reference(self, absent: Collection[int]) -> Tensor:
        """Reference logits, from a copy that has run before."""
        key = frozenset(absent)
        if key not in self._references:
            self._warm_copy = self.intact(self._warm_copy)
            self._references[key] = self.bypassed(self._warm_copy, key)
        return self._references[key]

    def intact(self, model: nn.Module) -> nn.Module:
        """The copy itself if it still computes the full logits, else a new copy that has run."""
        if not identical(self.logits(model), self.full):
            model = self.fresh()
            self.logits(model)
        return model

    def removed(self, absent: frozenset[int]) -> nn.Module:
        """A copy of the model without ``absent``; checks share it and only run it."""
        if absent not in self._removed:
            self._removed[absent] = self.remove(self.fresh(), absent)
        return self._removed[absent]

    def comparison(self) -> Comparison:
        """A comparison on the scale of this case's logits."""
        self._comparisons.append(Comparison(self.full))
        return self._comparisons[-1]

    @property
    def largest_difference(self) -> float:
        """Over all comparisons so far, as a share of the effect of the absence."""
        return max((comparison.worst for comparison in self._comparisons), default=0.0)


def cases(adapter: Adapter, seed: int = 0, only: Collection[str] = ()) -> Iterator[Case]:
    """The cases of an adapter; each example is built lazily.

    Args:
        adapter: the adapter under test.
        seed: of the weights and of the random sets of players.
        only: names of examples; empty: all.

    Raises:
        InputError: if the adapter has no example of that name, before any is built.
    """
    examples = adapter.examples()
    for name in only:
        if name not in examples:
            raise InputError(
                f"adapter {adapter.name!r} has no example {name!r}: {did_you_mean(name, examples)}"
            )
    return (made for name in only or examples for made in cases_of(adapter, name, examples[name], seed))


def cases_of(adapter: Adapter, name: str, example: Example, seed: int = 0) -> list[Case]:
    """Build one example: a case for each granularity at which it has players."""
    model, input_ids = example(seed)
    model = adapter.canonicalise(model)
    sequences = three_sequences(input_ids)
    made = [Case(adapter, name, model, sequences, seed=seed)]
    for granularity in adapter.granularities(model):
        if granularity != "block":
            label = f"{name} by {granularity}"
            case = Case(adapter, label, model, sequences, seed=seed, granularity=granularity)
            made.append(case)
            if _needs_code(case):
                label = f"{label} with code"
                made.append(
                    Case(
                        adapter,
                        label,
                        model,
                        sequences,
                        seed=seed,
                        granularity=granularity,
                        form="remote-code",
                    )
                )
    return made


def _needs_code(case: Case) -> bool:
    """Whether some player can be removed alone only with code beside the checkpoint."""
    alone = ([player.index] for player in case.players if player.removable)
    forms = (case.adapter.checkpoint_forms(case.model, each, case.granularity) for each in alone)
    return case.granularity == "sublayer" and ("remote-code",) in forms


def three_sequences(input_ids: Tensor) -> Tensor:
    """The first three sequences, padded with shifted copies if there are fewer; shape (3, length)."""
    batch = len(input_ids)
    rows = [input_ids[row % batch].roll(row // batch) for row in range(BATCH)]
    return torch.stack(rows)


def run_stack(stack: LayerStack, n_players: int, input_ids: Tensor, absent: Collection[int]) -> Tensor:
    """Logits by the fast path in batches of ``stack.batch_size``; shape (batch, length, vocabulary)."""
    rows = stack.batch_size or len(input_ids)
    with torch.inference_mode():
        state = stack.prelude(input_ids)
        parts = []
        for start in range(0, len(input_ids), rows):
            part: State = tuple(tensor[start : start + rows] for tensor in state)
            for index, players in enumerate(stack.stages(n_players)):
                part = stack.run(index, [player not in absent for player in players], part)
            parts.append(stack.readout(part))
        return torch.cat(parts)
