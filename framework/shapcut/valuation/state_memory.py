"""Memory for the hidden states of many coalitions."""

from collections import OrderedDict
from dataclasses import dataclass

from shapcut.models.layer_stack import State

MOST_COALITIONS_PER_CHUNK = 256


def state_bytes(state: State) -> int:
    """Memory of one state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


@dataclass(frozen=True, slots=True)
class MemoryDivision:
    """How many states fit.

    Attributes:
        keeps_trunk: whether the states of the whole model after each layer are kept for good.
        chunk_size: coalitions that go through the layers together.
        remembered: states that are kept for a while.
    """

    keeps_trunk: bool
    chunk_size: int
    remembered: int


def divide_memory(state: int, n_players: int, budget: int) -> MemoryDivision:
    """Divide a budget: the trunk's states, then a quarter each for chunks and for what is remembered.

    Args:
        state: bytes of one state.
        n_players: number of layers.
        budget: bytes for all states.
    """
    keep = state * (n_players + 1) <= budget // 2
    left = budget - state * (n_players + 1 if keep else 1)
    fitting = left // (4 * state)
    return MemoryDivision(keep, max(1, min(MOST_COALITIONS_PER_CHUNK, fitting)), max(0, fitting))


class StateMemory:
    """States by the layers that made them; the least recently used are forgotten first.

    A set of layers is an integer with one bit a layer. Layers skipped after the last that ran make no
    difference to a state, so they need no place in its name.

    Args:
        capacity: how many states are kept beside those that are pinned.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pinned: dict[int, State] = {}
        self._recent: OrderedDict[int, State] = OrderedDict()

    def pin(self, layers: int, state: State) -> None:
        """Keep a state for good."""
        self._pinned[layers] = state

    def get(self, layers: int) -> State | None:
        """The state that these layers make, if it is known."""
        if layers in self._recent:
            self._recent.move_to_end(layers)
            return self._recent[layers]
        return self._pinned.get(layers)

    def keep(self, layers: int, state: State) -> None:
        """Remember a state for a while."""
        self._recent[layers] = state
        if len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
