"""The fast path with the parts of blocks as players: a block runs with those that are present."""

from collections.abc import Callable, Sequence
from typing import Any

from shapcut.contracts import State
from shapcut_adapters.transformers.interception import Container
from shapcut_adapters.transformers.recorded_stack import RecordedStack
from shapcut_adapters.transformers.sublayers.players import SubLayers


class SubLayerStack(RecordedStack):
    """A decoder's layer stack in which each block has its parts as players.

    Args:
        sublayers: the model and the parts of its blocks.
        containers: the output container of each class of block.
        batch_size: 1 if the recorded arguments carry the batch, else None.
    """

    def __init__(
        self, sublayers: SubLayers, containers: dict[type, Container], batch_size: int | None = None
    ) -> None:
        super().__init__(sublayers.decoder, containers, batch_size)
        self._sublayers = sublayers

    def stages(self, n_players: int) -> Sequence[range]:  # noqa: ARG002 - the parts have their number
        """The parts of each block."""
        return self._sublayers.stages()

    def run(self, index: int, present: Sequence[bool], state: State) -> State:
        """The state after block ``index`` with some of its parts; absent ones are not computed."""
        if not any(present):
            return state
        with self._sublayers.only(index, present):
            return self.step(index, state)

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:  # noqa: ARG002
        """Never: forwards inside the blocks are replaced."""
        return False
