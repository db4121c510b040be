"""Memory for the hidden states of many coalitions."""

from collections import OrderedDict
from dataclasses import dataclass

from shapcut.models.layer_stack import State

MOST_COALITIONS_PER_CHUNK = 256

Key = tuple[int, int]
"""The first window of a state and the set of layers that it has passed."""

TOKENS_PER_STEP = 4096
"""Of one state in a layer call; a window that is longer goes alone."""


def most_windows_per_step(shape: tuple[int, int], at_most: int | None = None) -> int:
    """The number of windows in one layer call: at most a quarter, so that few can be measured first.

    Args:
        shape: number and length of the windows.
        at_most: an upper bound in place of `TOKENS_PER_STEP`.
    """
    windows, length = shape
    return min(-(-windows // 4), at_most or max(1, TOKENS_PER_STEP // length))


def state_bytes(state: State) -> int:
    """Memory of one state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


@dataclass(frozen=True, slots=True)
class MemoryDivision:
    """How many states fit into memory.

    Attributes:
        keeps_trunk: whether the full model's state after each layer is kept permanently, for all windows.
        windows: windows that go through all coalitions together.
        chunk_size: coalitions evaluated together.
        remembered: capacity of the cache of other states.
    """

    keeps_trunk: bool
    windows: int
    chunk_size: int
    remembered: int


def divide_memory(window: int, windows: int, step: int, n_players: int, budget: int) -> MemoryDivision:
    """Divide a budget: the trunk's states first, then a quarter each for chunks and for the cache.

    The fewer windows go together, the smaller are the states: as many as leave room for a full chunk.

    Args:
        window: bytes of the state of one window.
        windows: number of windows.
        step: windows in one layer call; those that go together are a multiple of it, or all.
        n_players: number of layers.
        budget: bytes for all states.
    """
    entering = window * windows
    trunk = entering * (n_players + 1)
    keeps, together = trunk <= budget // 2, windows
    left = budget - (trunk if keeps else entering)
    while True:
        fitting = left // (4 * window * together)
        if fitting >= MOST_COALITIONS_PER_CHUNK or together <= step:
            chunk = max(1, min(MOST_COALITIONS_PER_CHUNK, fitting))
            return MemoryDivision(keeps, together, chunk, max(0, fitting))
        together = step * max(1, together // step // 2)


class StateMemory:
    """A least-recently-used cache of states, keyed by their first window and the layers that produced them.

    A set of layers is an integer with one bit per layer. Layers skipped after the last one that ran do not
    change a state, so they are not part of its key.

    Args:
        capacity: number of states besides the pinned ones.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pinned: dict[Key, State] = {}
        self._recent: OrderedDict[Key, State] = OrderedDict()

    def pin(self, key: Key, state: State) -> None:
        """Keep a state permanently."""
        self._pinned[key] = state

    def get(self, key: Key) -> State | None:
        """The state, or None if it is not cached."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        return self._pinned.get(key)

    def keep(self, key: Key, state: State) -> None:
        """Cache a state."""
        self._recent[key] = state
        if len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
