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
    """How many states fit into memory.

    Attributes:
        keeps_trunk: whether the full model's state after each layer is kept permanently.
        chunk_size: coalitions evaluated together.
        remembered: capacity of the cache of other states.
    """

    keeps_trunk: bool
    chunk_size: int
    remembered: int


def divide_memory(state: int, n_players: int, budget: int) -> MemoryDivision:
    """Divide a budget: the trunk's states first, then a quarter each for chunks and for the cache.

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
    """A least-recently-used cache of states, keyed by the layers that produced them.

    A set of layers is an integer with one bit per layer. Layers skipped after the last one that ran do not
    change a state, so they are not part of its key.

    Args:
        capacity: number of states besides the pinned ones.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pinned: dict[int, State] = {}
        self._recent: OrderedDict[int, State] = OrderedDict()

    def pin(self, layers: int, state: State) -> None:
        """Keep a state permanently."""
        self._pinned[layers] = state

    def get(self, layers: int) -> State | None:
        """The state after these layers, or None if it is not cached."""
        if layers in self._recent:
            self._recent.move_to_end(layers)
            return self._recent[layers]
        return self._pinned.get(layers)

    def keep(self, layers: int, state: State) -> None:
        """Cache a state."""
        self._recent[layers] = state
        if len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
