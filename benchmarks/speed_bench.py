"""What the parts of the speed benchmark share: the model, the text, the clock, the allocator."""

import copy
import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reference_way import ReferenceWay
from shapcut.data.windows import load_calibration
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.game.coalitions import CoalitionMatrix
from shapcut.host.host import build_host, select_adapter
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.allocator import keep_freed_memory
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement

MODEL = "demo:smollm2-135m"
SAMPLES, LENGTH, SEED = 10, 128, 0
MEMORY = 2 * 2**30


class Bench:
    """The model in both number formats, its adapter and the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        host = build_host()
        loaded = load(ModelSource.find(MODEL, device="cpu"))
        self.tokenizer = loaded.tokenizer
        self.model = loaded.model
        self.half = copy.deepcopy(loaded.model).to(torch.bfloat16)
        self.adapter = select_adapter(host, loaded.model)
        self.players = self.adapter.players(self.model)
        self.ids = self.windows(SAMPLES)

    def windows(self, samples: int, length: int = LENGTH) -> torch.Tensor:
        """Calibration windows of the text, shape (samples, length)."""
        found = load_calibration(
            self.text, self.tokenizer, samples=samples, sequence_length=length, seed=SEED
        )
        return found.input_ids

    def coalitions(self, count: int, generations: int) -> CoalitionMatrix:
        """At the reference's strata, in the order in which a store asks for them."""
        sampler = StratifiedSampler(generations=generations)
        drawn = sampler.sample(self.players, count, np.random.default_rng(SEED))
        return drawn[np.lexsort(drawn.T[::-1])]

    def ours(
        self, *, fuse: bool, model: Any = None, ids: torch.Tensor | None = None, layers: int | None = None
    ) -> CoalitionEvaluator:
        """Our evaluation; its construction runs the whole model once and compiles, if it does."""
        stack = self.adapter.stack(self.half if model is None else model)
        if stack is None:
            raise RuntimeError("this model has no fast path")
        keep_freed_memory()
        ids = self.ids if ids is None else ids
        return CoalitionEvaluator(stack, layers or len(self.players), ids, "nll", Placement(MEMORY, fuse))

    def reference(
        self, model: torch.nn.Module, *, at_once: bool = True, ids: torch.Tensor | None = None
    ) -> ReferenceWay:
        """The reference's way on the same windows."""
        blocks = model.get_submodule(self.players[0].name.rpartition(".")[0])
        if not isinstance(blocks, torch.nn.ModuleList):
            raise TypeError("the blocks are not in a ModuleList")
        return ReferenceWay(model, blocks, self.ids if ids is None else ids, at_once=at_once)


def default_allocator() -> None:
    """Give freed buffers back to the system, as a process does that has asked for nothing else."""
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((-4, 65_536), (-1, 128 * 1024), (-2, 0)):
        mallopt(parameter, value)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result
