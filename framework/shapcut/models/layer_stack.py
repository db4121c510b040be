"""The layer stack: the fast path of evaluation, one step a player."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

State = tuple[Tensor, ...]
"""What flows from layer to layer: tensors whose first dimension is the batch; [0] is the hidden state."""


@dataclass(frozen=True, slots=True)
class Unembedding:
    """A readout that is exactly ``features @ weight.T + bias``, so that logits may be made in blocks.

    Attributes:
        weight: shape (vocabulary, width).
        bias: shape (vocabulary,) or None.
    """

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class OutputProjection:
    """A module whose output, times a factor, a player adds to the residual stream.

    Attributes:
        module: its dotted path in the model.
        role: whether it ends a mixer of tokens (attention, a state space) or the MLP after it.
        factor: what its output is multiplied by before it is added.
        linear: whether the module is one linear map with a ``weight`` and perhaps a ``bias`` of its own, into
            which another linear map can be folded. Others (a mixture of experts, a gated network) are
            declared so that all of a player's projections together are what it adds.
        transposed: whether the weight is of shape (inputs, outputs).
    """

    module: str
    role: Literal["mixer", "mlp"]
    factor: float = 1.0
    linear: bool = True
    transposed: bool = False


class LayerStack(ABC):
    """A model taken apart into prelude, layers and readout: the fast path of coalition evaluation.

    Skipping ``step(i, ...)`` is the absence of player i. A stack keeps what it recorded about the
    sequence length of its last `prelude`; it does not own or copy weights.
    """

    batch_size: int | None = None
    """None: steps take any batch. A number (known before `prelude`): they take exactly so many sequences."""

    @abstractmethod
    def prelude(self, input_ids: Tensor) -> State:
        """What enters layer 0 for token ids of shape (batch, length)."""

    @abstractmethod
    def step(self, index: int, state: State) -> State:
        """What layer ``index`` makes of a state; the given state is left unchanged."""

    @abstractmethod
    def readout(self, state: State) -> Tensor:
        """Logits of shape (batch, length, vocabulary) for the state after the last layer."""

    def stream(self, state: State) -> Tensor:
        """The residual stream of a state, shape (batch, length, width): what layers add to."""
        return state[0]

    def resident(self, index: int) -> AbstractContextManager[None]:  # noqa: ARG002 - for stacks that load weights
        """Keep the weights of layer ``index`` where its steps need them while the context is open.

        For models larger than memory, whose weights come from elsewhere: each layer is opened once a chunk.
        """
        return nullcontext()

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:  # noqa: ARG002
        """From now on run steps as fused kernels, if the stack knows how.

        Args:
            compiled: takes a function of modules and tensors, returns the same function compiled.

        Returns:
            Whether steps are fused.
        """
        return False

    def unembedding(self) -> Unembedding | None:
        """The last linear map if logits are exactly that map of `features`, else None."""
        return None

    def features(self, state: State) -> Tensor:  # noqa: ARG002 - for stacks that have one
        """What enters `unembedding`, shape (batch, length, width); only called if there is one."""
        raise TypeError(f"{type(self).__name__} declares no unembedding")
