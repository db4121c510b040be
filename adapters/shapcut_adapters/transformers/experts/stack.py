"""The fast path with experts as players: a layer runs with those that are present."""

from collections.abc import Callable, Sequence
from typing import Any

from shapcut.contracts import State
from shapcut_adapters.transformers.experts.partial import present_experts
from shapcut_adapters.transformers.experts.players import Experts
from shapcut_adapters.transformers.interception import Container
from shapcut_adapters.transformers.recorded_stack import RecordedStack


class ExpertStack(RecordedStack):
    """A decoder's layer stack in which each layer has its experts as players.

    Args:
        experts: the model and its experts.
        containers: the output container of each class of block.
        batch_size: 1 if the recorded arguments carry the batch, else None.
    """

    def __init__(
        self, experts: Experts, containers: dict[type, Container], batch_size: int | None = None
    ) -> None:
        super().__init__(experts.decoder, containers, batch_size)
        self._experts = experts

    def stages(self, n_players: int) -> Sequence[range]:  # noqa: ARG002 - the experts have their number
        """The experts of each block; an empty range for a block without."""
        return self._experts.stages()

    def run(self, index: int, present: Sequence[bool], state: State) -> State:
        """The state after block ``index`` with some of its experts."""
        mixture = self._experts.mixtures[index]
        if mixture is None or all(present):
            return self.step(index, state)
        with present_experts(mixture, [expert for expert, runs in enumerate(present) if runs]):
            return self.step(index, state)

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:  # noqa: ARG002
        """Never: forwards inside the blocks are replaced."""
        return False
