"""The fast path with parts and experts as players."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from shapcut.contracts import State
from shapcut_adapters.transformers.experts.partial import present_experts
from shapcut_adapters.transformers.interception import Container
from shapcut_adapters.transformers.mixed.players import Mixed
from shapcut_adapters.transformers.recorded_stack import RecordedStack


class MixedStack(RecordedStack):
    """A decoder's layer stack in which each block has its parts and its experts as players.

    Args:
        mixed: the model, its parts and its experts.
        containers: the output container of each class of block.
        batch_size: 1 if the recorded arguments carry the batch, else None.
    """

    def __init__(
        self, mixed: Mixed, containers: dict[type, Container], batch_size: int | None = None
    ) -> None:
        super().__init__(mixed.sublayers.decoder, containers, batch_size)
        self._mixed = mixed
        self._layers = mixed.layers()

    def stages(self, n_players: int) -> Sequence[range]:  # noqa: ARG002 - the parts have their number
        """The parts of each block and its experts."""
        return [layer.players for layer in self._layers]

    def run(self, index: int, present: Sequence[bool], state: State) -> State:
        """The state after block ``index`` with some of its parts, and some experts of a part that runs."""
        layer = self._layers[index]
        parts, experts = present[: len(layer.parts)], present[len(layer.parts) :]
        if not any(parts):
            return state
        runs_owner = layer.owner is not None and present[layer.parts.index(layer.owner)]
        with ExitStack() as stack:
            stack.enter_context(self._mixed.sublayers.only(index, parts))
            if layer.mixture and runs_owner and not all(experts):
                kept = [expert for expert, runs in enumerate(experts) if runs]
                stack.enter_context(present_experts(layer.mixture, kept))
            return self.step(index, state)

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:  # noqa: ARG002
        """Never: forwards inside the blocks are replaced."""
        return False
