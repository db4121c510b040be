"""The throughput of a device: measured on the model's own blocks or on matrix products."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.game.groups import layer_parameters
from shapcut.measurement.latency import random_prompt
from shapcut.models.adapter import Adapter
from shapcut.models.layer_stack import LayerStack
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.errors import ShapcutError

LARGEST_LOADED = 2**30
"""Bytes of the weights of a model whose own blocks are measured."""

_SECONDS = 1.0
_SECONDS_PER_PRODUCT = 0.1
_OPERATIONS_PER_STEP = 2e10
_ROWS = 256

Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Floating-point operations per second.

    Attributes:
        operations: per second.
        source: how they are known, in words.
    """

    operations: float
    source: str


def block_throughput(
    stack: LayerStack, players: Sequence[Player], input_ids: Tensor, clock: Clock = time.perf_counter
) -> Throughput:
    """Run the blocks in order for about a second; counts operations as a forecast does, by parameters.

    Args:
        stack: the model's layer stack.
        players: those of the stack.
        input_ids: tokens, shape (batch, length), on the stack's device.
        clock: for tests.
    """
    layers = [sum(players[player].parameters for player in stage) for stage in stack.stages(len(players))]
    with torch.inference_mode():
        entering = state = stack.prelude(input_ids)
        stack.step(0, state)  # warms up
        done = steps = 0
        begin = _now(clock, input_ids.device)
        while _now(clock, input_ids.device) - begin < _SECONDS:
            index = steps % len(layers)
            state = stack.step(index, state if index else entering)
            done += 2 * layers[index] * input_ids.numel()
            steps += 1
        seconds = _now(clock, input_ids.device) - begin
    batch, length = input_ids.shape
    return Throughput(done / seconds, f"measured on {steps} runs of its blocks on {batch} x {length} tokens")


def product_throughput(
    width: int, tokens: int, dtype: torch.dtype, device: torch.device, clock: Clock = time.perf_counter
) -> Throughput:
    """Multiply random matrices for about a second, of fewer rows where a product takes long.

    A CPU without instructions for a number format takes minutes for a product that others do at once.

    Args:
        width: of the hidden states.
        tokens: of one coalition.
        dtype: number format of the evaluation.
        device: the device.
        clock: for tests.
    """
    most, products = min(tokens, _ROWS), 0
    states = torch.randn(most, width).to(device, dtype)
    weight = torch.randn(width, width).to(device, dtype)
    with torch.inference_mode():
        _ = states[:1] @ weight  # warms up
        rows = _rows_at_once(lambda n: states[:n] @ weight, most, partial(_now, clock, device))
        states = states[:rows]
        begin = _now(clock, device)
        while _now(clock, device) - begin < _SECONDS:
            _ = states @ weight
            products += 1
        seconds = _now(clock, device) - begin
    shape = f"{rows} x {width} by {width} x {width}"
    return Throughput(2.0 * products * rows * width**2 / seconds, f"measured on matrix products of {shape}")


def _rows_at_once(multiply: Callable[[int], Tensor], most: int, now: Clock) -> int:
    """As many rows as a product does in a small part of the time, doubled until then."""
    rows = 1
    while rows < most:
        begin = now()
        _ = multiply(rows)
        if now() - begin > _SECONDS_PER_PRODUCT:
            return rows
        rows = min(2 * rows, most)
    return rows


def loaded_model(source: ModelSource, device: torch.device, size: int) -> nn.Module | None:
    """The model with its weights, or None if they are not here or not small.

    Args:
        source: the model.
        device: where to load it.
        size: bytes of its weights.
    """
    if size > LARGEST_LOADED or not source.location.local or source.location.gguf_file is not None:
        return None
    try:
        return load(replace(source, device=str(device))).model
    except ShapcutError:
        return None  # a dry run needs no weights


def stack_throughput(
    adapter: Adapter,
    model: nn.Module,
    granularity: Granularity,
    dtype: torch.dtype,
    windows: tuple[int, int],
) -> Throughput | None:
    """Measure a loaded model's blocks; None if it has no fast path.

    Args:
        adapter: the model's adapter.
        model: with its weights; converted in place.
        granularity: what a player is.
        dtype: number format of the evaluation.
        windows: number and length of one coalition's.
    """
    model = adapter.canonicalise(model).to(dtype)
    stack, players = adapter.stack(model, granularity), adapter.players(model, granularity)
    if stack is None:
        return None
    samples, length = windows
    per_window = 2.0 * length * max(layer_parameters(players))
    batch = stack.batch_size or max(1, min(samples, int(_OPERATIONS_PER_STEP / max(per_window, 1.0))))
    return block_throughput(stack, players, random_prompt(adapter, model, length, 0, batch))


def _now(clock: Clock, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
