"""The compensation of a cut where it can be done."""

from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import nn

from shapcut.host.host import Host
from shapcut.host.open_model import OpenModel
from shapcut.models.quantization import is_quantized
from shapcut.pipeline.parts import Parts, mends
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError

STEP = "compensate"
"""The step that a run which is to mend takes first."""

_LEAST_WINDOWS = 2
_MOMENTS = 6
"""Sums of the groups of texts, of all of them, and of what is solved for."""


def with_mending(parts: Parts, recipe: Recipe, host: Host, opened: OpenModel) -> tuple[Parts, str]:
    """The parts with a first step that compensates, if the recipe wants one and the model allows it.

    Returns:
        The parts, and a line that says why the cut is not compensated, if it was to be.

    Raises:
        InputError: if it cannot, but finalists are to be compared after compensation.
    """
    if not recipe.mend or mends(parts.steps):
        return parts, ""
    device = opened.adapter.input_device(opened.model)
    objection = _objection(recipe, opened.model, device) or _objection_of_step(host, opened)
    if not objection:
        return replace(parts, steps=((STEP, host.postprocessors.create(STEP)), *parts.steps)), ""
    if recipe.mend_finalists:
        raise InputError(f"--mend-finalists: the cut cannot be compensated: {objection}")
    return parts, f"the cut is not compensated: {objection}"


def planned_steps(
    parts: Parts, recipe: Recipe, model: nn.Module, device: torch.device
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps of a run and its caveats, as far as they are known without weights.

    Raises:
        InputError: if the cut cannot be compensated, but finalists are to be compared after compensation.
    """
    steps = tuple(spec for spec, _ in parts.steps)
    if not recipe.mend or mends(parts.steps):
        return steps, parts.caveats
    objection = _objection(recipe, model, device)
    if not objection:
        return (STEP, *steps), parts.caveats
    if recipe.mend_finalists:
        raise InputError(f"--mend-finalists: the cut cannot be compensated: {objection}")
    return steps, (*parts.caveats, f"--mend: the cut is not compensated: {objection}")


def _objection(recipe: Recipe, model: nn.Module, device: torch.device) -> str:
    """Why a cut cannot be compensated whatever its blocks are; empty if it can."""
    if is_quantized(model):
        return "its weights are quantized"
    if recipe.samples < _LEAST_WINDOWS:
        return f"that needs {_LEAST_WINDOWS} windows of text, and --samples is {recipe.samples}"
    needed, free = _size(model) + _size_of_fit(model), _free_memory(device)
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        return f"that needs the original beside it and the moments of the widest fit, {sizes}"
    return ""


def _objection_of_step(host: Host, opened: OpenModel) -> str:
    """Why the step does not work on this model; empty if it does."""
    try:
        host.postprocessors.create(STEP).check(opened.model, opened.adapter)
    except InputError as error:
        return str(error).removeprefix(f"{STEP}: ").partition("; leave out")[0]
    return ""


def _size(model: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _size_of_fit(model: nn.Module) -> int:
    """The bytes of the moments of the linear map with the most inputs, and of what solving for it takes."""
    maps = [module.weight.shape for module in model.modules() if isinstance(module, nn.Linear)]
    outputs, inputs = max(maps, key=lambda shape: shape[1], default=(0, 0))
    return _MOMENTS * torch.float64.itemsize * inputs * (inputs + outputs)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        free: Any = torch.cuda.mem_get_info(device)
        return int(free[0])
    return int(psutil.virtual_memory().available)
