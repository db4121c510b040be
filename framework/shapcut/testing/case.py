"""One example of an adapter, and what the checks ask of it."""

import copy
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.adapter import Adapter, Example, LayerStack, State
from shapcut.coalitions import Player
from shapcut.errors import InputError
from shapcut.registry import did_you_mean
from shapcut.testing.comparison import Comparison, identical, require

BATCH = 3
_RANDOM_SIZES = (2, 3)


class Case:
    """An example model under check. The model itself never runs and never changes: checks work on copies.

    Args:
        adapter: what is checked.
        name: the example's name.
        model: the canonical example model.
        input_ids: three different sequences of its tokens, shape (3, length).
        seed: decides which random sets of players are tried.
    """

    def __init__(self, adapter: Adapter, name: str, model: nn.Module, input_ids: Tensor, seed: int) -> None:
        self.adapter = adapter
        self.name = name
        self.model = model
        self.input_ids = input_ids
        self.seed = seed
        self._references: dict[frozenset[int], Tensor] = {}
        self._removed: dict[frozenset[int], nn.Module] = {}

    def fresh(self) -> nn.Module:
        """A copy of the model."""
        return copy.deepcopy(self.model)

    @cached_property
    def players(self) -> tuple[Player, ...]:
        """The players of the whole model."""
        return self.adapter.players(self.model)

    @cached_property
    def full(self) -> Tensor:
        """Logits with all players present."""
        return self.logits(self.fresh())

    @cached_property
    def _warm_copy(self) -> nn.Module:
        return self.fresh()

    @cached_property
    def removable_sets(self) -> tuple[frozenset[int], ...]:
        """Sets to remove: the first player, the last, both, and random ones of two and three.

        Raises:
            ConformanceError: if the adapter can remove none of them.
        """
        permitted = [absent for absent in self._sets() if self.adapter.can_remove(self.model, absent) is None]
        require(permitted, "vacuous: the adapter can remove none of the sets that were tried")
        return tuple(permitted)

    @property
    def telling_sets(self) -> tuple[frozenset[int], ...]:
        """The smallest and the largest of the removable sets, for checks that take long."""
        return tuple(dict.fromkeys((self.removable_sets[0], self.removable_sets[-1])))

    def _sets(self) -> Iterable[frozenset[int]]:
        last = len(self.players) - 1
        generator = np.random.default_rng(self.seed)
        sets = [frozenset({0}), frozenset({last}), frozenset({0, last})]
        for size in _RANDOM_SIZES:
            chosen = generator.choice(last + 1, size=min(size, last), replace=False)
            sets.append(frozenset(chosen.tolist()))
        return dict.fromkeys(sets)

    def logits(self, model: nn.Module) -> Tensor:
        """Logits of a model on the case's tokens."""
        return self.adapter.logits(model, self.input_ids)

    def present(self, absent: Collection[int]) -> frozenset[int]:
        """The players that run if ``absent`` do not."""
        return frozenset(range(len(self.players))) - frozenset(absent)

    def bypassed(self, model: nn.Module, absent: Collection[int]) -> Tensor:
        """Logits of a model while players are bypassed."""
        with self.adapter.bypass(model, self.present(absent)):
            return self.logits(model)

    def bypassing(self, model: nn.Module, present: Collection[int]) -> None:
        """Enter and leave a bypass without running the model."""
        with self.adapter.bypass(model, present):
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
            self._removed[absent] = self.adapter.remove(self.fresh(), absent)
        return self._removed[absent]

    def comparison(self) -> Comparison:
        """A comparison on the scale of this case's logits."""
        return Comparison(self.full)


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
    return (case(adapter, name, examples[name], seed) for name in only or examples)


def case(adapter: Adapter, name: str, example: Example, seed: int = 0) -> Case:
    """One example, built and ready to be checked."""
    model, input_ids = example(seed)
    return Case(adapter, name, adapter.canonicalise(model), three_sequences(input_ids), seed)


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
