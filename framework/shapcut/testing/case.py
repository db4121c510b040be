"""One example of an adapter, and what the checks ask of it."""

import copy
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.game.coalitions import Player
from shapcut.models.adapter import Adapter, Example, Granularity
from shapcut.models.layer_stack import LayerStack, State
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.support.suggest import did_you_mean
from shapcut.testing.comparison import Comparison, identical, require

BATCH = 3
_RANDOM_SIZES = (1, 2, 3, 4)
_DRAWS = 32


class Case:
    """An example model under check. The model itself never runs and never changes: checks work on copies.

    Args:
        adapter: what is checked.
        name: the example's name.
        model: the canonical example model.
        input_ids: three different sequences of its tokens, shape (3, length).
        seed: decides which random sets of players are tried.
        granularity: what a player is.
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
    ) -> None:
        self.adapter = adapter
        self.name = name
        self.model = model
        self.input_ids = input_ids
        self.seed = seed
        self.granularity = granularity
        self._references: dict[frozenset[int], Tensor] = {}
        self._removed: dict[frozenset[int], nn.Module] = {}
        self._comparisons: list[Comparison] = []

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
        """The context in which only ``present`` run."""
        return self.adapter.bypass(model, present, self.granularity)

    def stack(self, model: nn.Module) -> LayerStack | None:
        """The model taken apart, if the adapter can."""
        return self.adapter.stack(model, self.granularity)

    def remove(self, model: nn.Module, absent: Collection[int]) -> nn.Module:
        """The model without players, which may be the same object."""
        return self.adapter.remove(model, absent, self.granularity)

    def refusal(self, model: nn.Module, absent: Collection[int]) -> str | None:
        """Why players cannot be removed, None if they can."""
        return self.adapter.can_remove(model, absent, self.granularity)

    @cached_property
    def full(self) -> Tensor:
        """Logits with all players present."""
        return self.logits(self.fresh())

    @cached_property
    def _warm_copy(self) -> nn.Module:
        return self.fresh()

    @property
    def no_removal(self) -> str:
        """Why no player at all can be removed, as the players say; empty if one can."""
        return "" if any(player.removable for player in self.players) else self.players[0].reason

    @cached_property
    def absentable(self) -> tuple[int, ...]:
        """The players that can be absent while the model runs.

        Those are all but the ones that are not removable and that the adapter also refuses to bypass.

        Raises:
            ConformanceError: if none can.
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
    def absences(self) -> tuple[frozenset[int], ...]:
        """Sets of players to do without: the first, the last, both, and random ones of one to four."""
        generator = np.random.default_rng(self.seed)
        first, last = self.absentable[0], self.absentable[-1]
        drawn = [self._drawn(size, generator) for size in _RANDOM_SIZES]
        return tuple(dict.fromkeys((frozenset({first}), frozenset({last}), frozenset({first, last}), *drawn)))

    @cached_property
    def requests(self) -> dict[frozenset[int], str | None]:
        """Sets to remove, and why each cannot be (None: it can).

        Those of `absences`, and where none of a size can be removed, others of that size until one can.
        """
        asked = {absent: self.refusal(self.model, absent) for absent in self.absences}
        generator = np.random.default_rng(self.seed + 1)
        for size in _RANDOM_SIZES:
            for _ in range(_DRAWS):
                if any(refusal is None and len(absent) == size for absent, refusal in asked.items()):
                    break
                absent = self._drawn(size, generator)
                asked[absent] = self.refusal(self.model, absent)
        return asked

    def _drawn(self, size: int, generator: np.random.Generator) -> frozenset[int]:
        most = min(len(self.absentable), len(self.players) - 1)
        chosen = generator.choice(self.absentable, size=min(size, most), replace=False)
        return frozenset(chosen.tolist())

    @cached_property
    def removable_sets(self) -> tuple[frozenset[int], ...]:
        """Those of `requests` that can be removed.

        Raises:
            ConformanceError: if there are none, although players are said to be removable.
        """
        permitted = tuple(absent for absent, refusal in self.requests.items() if refusal is None)
        require(permitted, "vacuous: the adapter can remove none of the sets that were tried")
        return permitted

    @property
    def telling_sets(self) -> tuple[frozenset[int], ...]:
        """The smallest and the largest of the removable sets, for checks that take long."""
        sets = sorted(self.removable_sets, key=len)
        return tuple(dict.fromkeys((sets[0], sets[-1])))

    def logits(self, model: nn.Module) -> Tensor:
        """Logits of a model on the case's tokens."""
        return self.adapter.logits(model, self.input_ids)

    def present(self, absent: Collection[int]) -> frozenset[int]:
        """The players that run if ``absent`` do not."""
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
        """Logits by the reference semantics, of a copy that has run before."""
        key = frozenset(absent)
        if key not in self._references:
            self._warm_copy = self.intact(self._warm_copy)
            self._references[key] = self.bypassed(self._warm_copy, key)
        return self._references[key]

    def intact(self, model: nn.Module) -> nn.Module:
        """The copy itself if it still computes what it should, else a new one that has run."""
        if not identical(self.logits(model), self.full):
            model = self.fresh()
            self.logits(model)
        return model

    def removed(self, absent: frozenset[int]) -> nn.Module:
        """A copy of the model from which players were removed; checks share it and only run it."""
        if absent not in self._removed:
            self._removed[absent] = self.remove(self.fresh(), absent)
        return self._removed[absent]

    def comparison(self) -> Comparison:
        """A comparison on the scale of this case's logits."""
        self._comparisons.append(Comparison(self.full))
        return self._comparisons[-1]

    @property
    def largest_difference(self) -> float:
        """Of all comparisons so far, as a share of the effect of the absence."""
        return max((comparison.worst for comparison in self._comparisons), default=0.0)


def cases(adapter: Adapter, seed: int = 0, only: Collection[str] = ()) -> Iterator[Case]:
    """The examples of an adapter, ready to be checked; each is built when it is its turn.

    Args:
        adapter: whose examples.
        seed: of the weights, and of the random sets of players that are tried.
        only: names of examples; none means all.

    Raises:
        InputError: if the adapter has no example of one of these names, before any is built.
    """
    examples = adapter.examples()
    for name in only:
        if name not in examples:
            raise InputError(
                f"adapter {adapter.name!r} has no example {name!r}: {did_you_mean(name, examples)}"
            )
    return (made for name in only or examples for made in cases_of(adapter, name, examples[name], seed))


def cases_of(adapter: Adapter, name: str, example: Example, seed: int = 0) -> list[Case]:
    """One example, built and ready to be checked: a case for each granularity that the adapter knows."""
    model, input_ids = example(seed)
    model = adapter.canonicalise(model)
    sequences = three_sequences(input_ids)
    made = [Case(adapter, name, model, sequences, seed=seed)]
    with suppress(UnsupportedModelError):
        adapter.players(model, "sublayer")
        made.append(Case(adapter, f"{name} by sublayer", model, sequences, seed=seed, granularity="sublayer"))
    return made


def three_sequences(input_ids: Tensor) -> Tensor:
    """The first three sequences; fewer are filled up with shifted copies. Shape (3, length)."""
    batch = len(input_ids)
    rows = [input_ids[row % batch].roll(row // batch) for row in range(BATCH)]
    return torch.stack(rows)


def run_stack(stack: LayerStack, n_players: int, input_ids: Tensor, absent: Collection[int]) -> Tensor:
    """Logits by the fast path, as many sequences at a time as it takes; shape (batch, length, vocabulary)."""
    rows = stack.batch_size or len(input_ids)
    with torch.inference_mode():
        state = stack.prelude(input_ids)
        parts = []
        for start in range(0, len(input_ids), rows):
            part: State = tuple(tensor[start : start + rows] for tensor in state)
            for index in range(n_players):
                part = part if index in absent else stack.step(index, part)
            parts.append(stack.readout(part))
        return torch.cat(parts)
