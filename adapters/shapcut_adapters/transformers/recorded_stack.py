"""The fast path for any decoder: replay each block's recorded call on other hidden states."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor, nn

from shapcut.contracts import LayerStack, State, Unembedding
from shapcut_adapters.shared.forwards import replaced_blocks, replaced_forward
from shapcut_adapters.transformers.decoder import Decoder, forward, input_device
from shapcut_adapters.transformers.interception import Call, Container, constant, recorded_calls, skipped
from shapcut_adapters.transformers.offload import execution_device, is_managed, resident

_ROUNDINGS = 16


class RecordedStack(LayerStack):
    """A decoder's layer stack, made by recording the calls of its blocks.

    Most models call their blocks with arguments (positions, masks) that depend only on the sequence length.
    They are recorded from one sequence; a step replays a block's call on another state.

    Args:
        decoder: the model and its blocks.
        containers: the output container of each class of block.
        batch_size: 1 if the recorded arguments carry the batch, else None.
    """

    def __init__(
        self, decoder: Decoder, containers: dict[type, Container], batch_size: int | None = None
    ) -> None:
        self.batch_size = batch_size
        self.loads_weights = any(is_managed(block) for block in decoder.blocks)
        self._decoder = decoder
        self._container_of = containers
        self._ids: Tensor | None = None
        self._calls: list[Call] = []
        self._devices: list[torch.device] = []  # of the blocks, if they are on several
        self._unembedding: Unembedding | None = None
        self._unembedding_known = False
        self._run: Callable[..., Any] = _run

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return len(self._decoder.blocks)

    def prelude(self, input_ids: Tensor) -> State:
        """The hidden state that enters block 0; also records the blocks' calls for this length."""
        self._ids = input_ids[:1]
        self._calls = [call.with_hidden_state(None) for call in self._record(self._ids)]
        self._devices = self._devices_of_blocks()
        if self._devices:
            self._calls = [call.on(its) for call, its in zip(self._calls, self._devices, strict=True)]
        entering = self._entering(input_ids)
        entrance = self._decoder.entrance
        hidden_state = entering if entrance is None else entrance(entering)
        return (hidden_state.to(self._stream_dtype(hidden_state)),)

    def _stream_dtype(self, hidden_state: Tensor) -> torch.dtype:
        """The dtype of the residual stream: some blocks widen the embedding's."""
        if torch.finfo(hidden_state.dtype).bits > 16:  # noqa: PLR2004 - bfloat16 and float16 have 16
            return hidden_state.dtype
        with self.resident(0):
            return self.step(0, (hidden_state[:1],))[0].dtype

    def step(self, index: int, state: State) -> State:
        """Replay the call of block ``index`` on a state of any batch size."""
        call = self._calls[index].with_hidden_state(self.placed(index, state)[0])
        with self._entered(index):
            output = self._run(self._decoder.blocks[index], call.args, call.kwargs)
        return (output if isinstance(output, Tensor) else output[0],)

    def placed(self, index: int, state: State) -> State:
        """The state on the device of block ``index``."""
        if not self._devices:
            return state
        return tuple(tensor.to(self._devices[index]) for tensor in state)

    def resident(self, index: int) -> AbstractContextManager[None]:
        """Keep the weights of block ``index`` loaded, if accelerate offloads them."""
        return resident(self._decoder.blocks[index])

    def fuse(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
        """Call blocks through a compiled function, unless accelerate manages their weights."""
        if self.loads_weights:
            return False
        self._run = compiled(_run)
        return True

    def readout(self, state: State) -> Tensor:
        """Logits of a forward pass in which every block returns the given hidden state."""
        given = (
            (block, constant(self._container_of[type(block)], state[0])) for block in self._decoder.blocks
        )
        with replaced_blocks(given):
            return forward(self._decoder.model, self._ids_like(state))

    def features(self, state: State) -> Tensor:
        """The input of the output embedding, on its device."""
        head = _output_embedding(self._decoder.model)
        calls: list[Call] = []
        with recorded_calls((head,), calls, last=head):
            self.readout(state)
        features: Tensor = calls[0].args[0]
        return features.to(execution_device(head) or features.device)

    def unembedding(self) -> Unembedding | None:
        """The output embedding's weights, if nothing follows it and they are in memory."""
        if not self._unembedding_known:
            with torch.no_grad():
                self._unembedding = self._find_unembedding()
            self._unembedding_known = True
        return self._unembedding

    def _record(self, input_ids: Tensor) -> list[Call]:
        """Record the calls of all blocks without computing them."""
        calls: list[Call] = []
        absent = replaced_blocks(skipped(self._decoder, self._container_of, self._decoder.blocks))
        with absent, recorded_calls(self._decoder.blocks, calls, last=self._decoder.blocks[-1]):
            forward(self._decoder.model, input_ids)
        return calls

    def _devices_of_blocks(self) -> list[torch.device]:
        """The device of each block; empty if it is one and the same."""
        first = input_device(self._decoder.model)
        devices = [execution_device(block) or first for block in self._decoder.blocks]
        return devices if len({first, *devices}) > 1 else []

    def _entered(self, index: int) -> AbstractContextManager[None]:
        """Disable the entrance of block 0, which `prelude` has already applied."""
        entrance = self._decoder.entrance
        if index or entrance is None:
            return nullcontext()
        return replaced_forward(entrance, lambda hidden_state: hidden_state)

    def _entering(self, input_ids: Tensor) -> Tensor:
        """The hidden state that enters block 0."""
        calls: list[Call] = []
        first = self._decoder.blocks[0]
        with recorded_calls((first,), calls, last=first):
            forward(self._decoder.model, input_ids)
        return calls[0].hidden_state

    def _ids_like(self, state: State) -> Tensor:
        batch, length = state[0].shape[:2]
        if self._ids is not None and self._ids.shape[1] == length:
            return self._ids.expand(batch, -1)
        return torch.zeros((batch, length), dtype=torch.long, device=input_device(self._decoder.model))

    def _find_unembedding(self) -> Unembedding | None:
        head = _output_embedding(self._decoder.model)
        if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or head.weight.is_meta:
            return None  # other classes of weights are quantized, and those on meta are offloaded
        ids = torch.arange(4, device=input_device(self._decoder.model))[None]
        embedded = self._entering(ids)
        linear = F.linear(self.features((embedded,)), head.weight, head.bias)
        # Values far outside a tiny model's range show soft caps that its own logits would not.
        probe = torch.linspace(-50, 50, linear.numel(), device=linear.device).view_as(linear).to(linear.dtype)
        with replaced_forward(head, lambda _features: probe):
            unchanged = torch.equal(self.readout((embedded,)).to(probe), probe)
        logits = self.readout((embedded,)).to(linear.device)
        rounding = _ROUNDINGS * torch.finfo(linear.dtype).eps * linear.abs().max()
        exact = unchanged and bool((logits - linear).abs().max() <= rounding)
        return Unembedding(head.weight, head.bias) if exact else None


def _run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The compiled function; the block is an argument, so that blocks of one class share its code."""
    return block(*args, **kwargs)


def _output_embedding(model: nn.Module) -> nn.Module:
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return head
