"""The layer stack: the fast path of evaluation, one step per player."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

State = tuple[Tensor, ...]
"""The tensors passed from layer to layer, batch first; [0] is the hidden state."""


@dataclass(frozen=True, slots=True)
class Unembedding:
    """A readout that is exactly ``features @ weight.T + bias``, so that logits can be computed in blocks.

    Attributes:
        weight: shape (vocabulary, width).
        bias: shape (vocabulary,) or None.
    """

    weight: Tensor
    bias: Tensor | None


class LayerStack(ABC):
    """A model split into prelude, layers and readout: the fast path of coalition evaluation.

    Skipping ``step(i, ...)`` makes player i absent, unless players are parts of a layer, see `stages`. A
    stack keeps its recordings for the sequence length of the last `prelude`; it does not own or copy weights.
    """

    batch_size: int | None = None
    """None: steps take any batch. A number (known before `prelude`): steps take that many sequences."""

    loads_weights: bool = False
    """Whether `resident` loads weights: as many coalitions as fit into memory share it."""

    @abstractmethod
    def prelude(self, input_ids: Tensor) -> State:
        """The state that enters layer 0, for token ids of shape (batch, length)."""

    @abstractmethod
    def step(self, index: int, state: State) -> State:
        """The state after layer ``index``; the given state is left unchanged."""

    def stages(self, n_players: int) -> Sequence[range]:
        """The players of each layer, in order; a layer without players has an empty range.

        By default each layer is one player, and `run` runs or skips its step. Stacks whose players are parts
        of a layer that depend on each other, such as experts, override both; `step` then runs the whole
        layer. A layer that is one player is skipped while it is absent; all others always run.
        """
        return [range(player, player + 1) for player in range(n_players)]

    def run(self, index: int, present: Sequence[bool], state: State) -> State:
        """The state after layer ``index`` with some of its players; the given state is left unchanged.

        Args:
            index: the layer.
            present: which of its players run, in the order of `stages`.
            state: the state before it.
        """
        return self.step(index, state) if all(present) else state

    def placed(self, index: int, state: State) -> State:  # noqa: ARG002 - for stacks on several devices
        """The state on the device of layer ``index``; `step` places its own.

        For models spread over several devices: a state stays on the device of the last layer that ran, so
        states are placed before they are concatenated.
        """
        return state

    @abstractmethod
    def readout(self, state: State) -> Tensor:
        """Logits of shape (batch, length, vocabulary) for the state after the last layer."""

    def stream(self, state: State) -> Tensor:
        """The residual stream of a state, shape (batch, length, width)."""
        return state[0]

    def resident(self, index: int) -> AbstractContextManager[None]:  # noqa: ARG002 - for stacks that load weights
        """Keep the weights of layer ``index`` on its device while the context is open.

        For models larger than memory, whose weights are offloaded: each layer is opened once per chunk.
        """
        return nullcontext()

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:  # noqa: ARG002
        """Run steps as fused kernels from now on, if the stack supports it.

        Args:
            compiled: compiles a function of modules and tensors.

        Returns:
            Whether steps are fused.
        """
        return False

    def unembedding(self) -> Unembedding | None:
        """The final linear map if the logits are exactly that map of `features`, else None."""
        return None

    def features(self, state: State) -> Tensor:  # noqa: ARG002 - for stacks that have one
        """The input of `unembedding`, shape (batch, length, width); called only if there is one."""
        raise TypeError(f"{type(self).__name__} declares no unembedding")
