"""The memory that a run needs, estimated before weights are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn

from shapcut.game.coalitions import Player
from shapcut.game.groups import layer_parameters
from shapcut.models.quantization import is_quantized
from shapcut.pipeline.targets import checkpoint_size
from shapcut.recipe.recipe import Recipe
from shapcut.valuation.precision import default_memory_budget
from shapcut.valuation.state_memory import divide_memory, most_windows_per_step


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of evaluation, in bytes.

    Attributes:
        device: device of the evaluation.
        free: free memory of the device.
        weights: the model's weights in the checkpoint's number format; None if they are quantized.
        converted: a copy in the number format of the evaluation; 0 if that is the checkpoint's own.
        state: the hidden states of one coalition on all calibration tokens.
        budget: the part of the memory budget that states use.
        coalitions_at_once: number of coalitions that go through the layers together.
        outside_blocks: weights that stay in memory with ``--offload disk``.
        largest_block: weights that are loaded at a time with ``--offload disk``.
    """

    device: str
    free: int
    weights: int | None
    converted: int
    state: int
    budget: int
    coalitions_at_once: int
    outside_blocks: int
    largest_block: int

    @property
    def needed(self) -> int | None:
        """The total without offloading."""
        return None if self.weights is None else self.weights + self.converted + self.budget

    @property
    def offloaded(self) -> int:
        """The total with every block on disk."""
        return self.outside_blocks + self.largest_block + self.budget


def footprint(
    recipe: Recipe,
    model: nn.Module,
    players: Sequence[Player],
    device: torch.device,
    formats: tuple[torch.dtype, torch.dtype],
) -> Footprint:
    """Estimate the memory of evaluation, divided as evaluation divides it.

    Args:
        recipe: the recipe.
        model: the model, with or without weights.
        players: the model's players.
        device: device of the evaluation.
        formats: number formats of the checkpoint and of the evaluation.
    """
    own, dtype = formats
    width = state_width(model)
    window = recipe.sequence_length * width * dtype.itemsize
    state = recipe.samples * window
    budget = recipe.memory_budget or default_memory_budget(device)
    step = most_windows_per_step((recipe.samples, recipe.sequence_length), recipe.batch_size)
    blocks = [parameters * own.itemsize for parameters in layer_parameters(players)]
    division = divide_memory(window, recipe.samples, step, len(blocks), budget)
    trunk = state * (len(blocks) + 1 if division.keeps_trunk else 1)
    used = trunk + 4 * window * division.windows * division.chunk_size
    size = checkpoint_size(model)
    return Footprint(
        device=str(device),
        free=torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available,
        weights=None if is_quantized(model) else size,
        converted=0 if dtype == own else sum(w.numel() for w in model.parameters()) * dtype.itemsize,
        state=state,
        budget=min(budget, used),
        coalitions_at_once=division.chunk_size,
        outside_blocks=max(0, size - sum(blocks)),
        largest_block=max(blocks),
    )


def advice(recipe: Recipe, memory: Footprint, *, from_config: bool) -> str:
    """Advice on whether to offload weights."""
    if memory.needed is None:
        return "the weights are quantized; how large they are only the checkpoint says"
    if recipe.offload != "off":
        return f"--offload {recipe.offload} as asked: with every block on disk {gigabytes(memory.offloaded)}"
    if memory.needed <= memory.free:
        return "none needed: everything fits"
    if not from_config:
        return "it does not fit, and this format cannot be offloaded: a device with more memory is needed"
    if memory.offloaded > memory.free:
        return f"it does not fit even with --offload disk, which needs {gigabytes(memory.offloaded)}"
    disk = gigabytes(memory.offloaded)
    return f"it does not fit: --offload disk needs {disk}, --offload auto uses all there is"


def state_width(model: nn.Module) -> int:
    """The width of the hidden states, taken from the token embedding."""
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is None:
        embedding = next(part for part in model.modules() if isinstance(part, nn.Embedding))
    return int(embedding.weight.shape[-1])


def gigabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"  # noqa: PLR2004
