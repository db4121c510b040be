"""What the sections of the GPU benchmark share: the model, its coalitions, the clock, the memory."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from games import enumerated
from reference_way import ReferenceWay
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.coalitions import CoalitionMatrix, Values, without
from shapcut.game.game import FunctionGame
from shapcut.models.layer_stack import LayerStack
from shapcut.support.quiet import quiet_libraries
from shapcut.valuation.evaluator import Evaluator
from shapcut.valuation.precision import default_memory_budget
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

SHAPE = Path(__file__).parent / "paper" / "configs" / "llama-3-8b"
SEED = 0
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
TINY = {**NARROW, "num_hidden_layers": 8}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        windows: calibration windows.
        length: tokens a window.
        remove: players that the default way wants to remove.
        coalitions: coalitions of each kind, at most.
        peer_coalitions: coalitions of each other way, at most.
        more_windows: windows of the section on more windows.
        repeats: calls of a kernel.
    """

    windows: int = 16
    length: int = 2048
    remove: int = 8
    coalitions: int = 32
    peer_coalitions: int = 6
    more_windows: int = 128
    repeats: int = 10


SMALL = Sizes(windows=4, length=32, remove=2, coalitions=12, peer_coalitions=3, more_windows=8, repeats=2)


def random_model(device: torch.device, dtype: torch.dtype, changed: dict[str, int]) -> nn.Module:
    """A model of Llama-3-8B's shape with random weights, some sizes changed."""
    torch.manual_seed(SEED)
    with quiet_libraries(), device:
        config = AutoConfig.from_pretrained(SHAPE, **changed)
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(requires_grad=False)


class Bench:
    """The device, the model and the coalitions.

    Args:
        sizes: how much is measured.
        changed: fields of the config that differ from Llama-3-8B's.
    """

    def __init__(self, sizes: Sizes, changed: dict[str, int]) -> None:
        self.sizes = sizes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        took, self.model = self.timed(lambda: random_model(self.device, self.dtype, changed))
        self.seconds_to_build = took
        self.adapter = HFDecoderAdapter()
        self.players = self.adapter.players(self.model)
        self.n = len(self.players)
        self.ids = self.windows(sizes.windows)
        self.budget = default_memory_budget(self.device)

    def windows(self, count: int) -> Tensor:
        """Random tokens, shape (count, length)."""
        vocabulary = self.head.shape[0]
        generator = torch.Generator().manual_seed(SEED)
        drawn = torch.randint(vocabulary, (count, self.sizes.length), generator=generator)
        return drawn.to(self.device)

    @property
    def head(self) -> Tensor:
        """The output embedding, shape (vocabulary, width)."""
        model: Any = self.model
        return model.get_output_embeddings().weight

    def timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds until the device has done everything, and the result."""
        self._wait()
        begin = time.perf_counter()
        result = function()
        self._wait()
        return time.perf_counter() - begin, result

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    @cached_property
    def peak(self) -> float:
        """Best operations a second of a large product in the model's number format."""
        size = 8192 if self.on_gpu else 512
        left, right = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return max(2 * size**3 / self.timed(lambda: left @ right)[0] for _ in range(12))

    def operations(self, block_runs: float, tokens: int) -> float:
        """Operations of the products of block runs and one readout; attention as causal."""
        vocabulary, width = self.head.shape
        attention = 2.0 * width * self.sizes.length
        block = 2.0 * self.players[0].parameters + attention
        return tokens * (block_runs * block + 2.0 * vocabulary * width)

    @cached_property
    def requests(self) -> tuple[CoalitionMatrix, CoalitionMatrix]:
        """What the default estimator asks for: first all and single absences, then guided draws.

        A random model has no harmless layers. The draws follow the values of a trained one: the single
        absences of the zoo's llama, stretched to this depth.
        """
        trained = enumerated("llama")
        values = trained.values(without(trained.n_players, [(), *([p] for p in range(trained.n_players))]))
        places = np.linspace(0, 1, self.n), np.linspace(0, 1, trained.n_players)
        damage = np.interp(*places, values[0] - values[1:])
        game = FunctionGame(self.n, lambda coalitions: -(~coalitions @ damage))
        problem = EstimationProblem(
            game, 2 * (self.n + 1 + self.sizes.coalitions), np.random.default_rng(SEED), self.sizes.remove
        )
        asked = SurrogateEstimator().estimate(problem).coalitions
        return asked[: self.n + 1], asked[self.n + 1 :]

    def stratified(self, generations: int) -> CoalitionMatrix:
        """Draws of the stratified sampler; siblings share prefixes."""
        sampler = StratifiedSampler(generations=generations)
        return sampler.sample(self.players, self.sizes.coalitions, np.random.default_rng(SEED))

    def stack(self) -> LayerStack:
        """A new layer stack."""
        stack = self.adapter.stack(self.model)
        if stack is None:
            raise RuntimeError("this model has no fast path")
        return stack

    def ours(
        self, *, fuse: bool = False, ids: Tensor | None = None, budget: int | None = None
    ) -> CoalitionEvaluator:
        """A new evaluator, which remembers nothing of earlier coalitions."""
        ids = self.ids if ids is None else ids
        return CoalitionEvaluator(self.stack(), self.n, ids, "nll", Placement(budget or self.budget, fuse))

    def peer(self, kind: type[ReferenceWay], ids: Tensor) -> ReferenceWay:
        """Another way, one window at a time: all logits of several would fill the memory."""
        blocks = self.model.get_submodule(self.players[0].name.rpartition(".")[0])
        if not isinstance(blocks, nn.ModuleList):
            raise TypeError("the blocks are not in a ModuleList")
        return kind(self.model, blocks, ids, at_once=False)

    def measure(
        self, evaluator: Evaluator, calls: Sequence[CoalitionMatrix], tokens: int | None = None
    ) -> tuple[dict[str, Any], Values]:
        """Time, work and memory of an evaluator's calls, and the losses that it found."""
        self._forget_peak()
        before, count = evaluator.work.block_runs, sum(map(len, calls))
        took, found = self.timed(lambda: [evaluator.means(rows) for rows in calls])
        runs = (evaluator.work.block_runs - before) / count
        return self.row(took / count, count, runs, tokens), np.concatenate(found)

    def row(
        self, seconds: float, coalitions: int, block_runs: float, tokens: int | None = None
    ) -> dict[str, Any]:
        """A row of the result."""
        operations = self.operations(block_runs, tokens or self.ids.numel())
        return {
            "seconds a coalition": seconds,
            "coalitions": coalitions,
            "block runs a coalition": block_runs,
            "share of the matrix-product peak": operations / seconds / self.peak,
            "peak memory GiB": torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None,
        }

    def _forget_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def free(self) -> None:
        """Return the memory of the last section."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            self._forget_peak()

    @cached_property
    def losses(self) -> Values:
        """Losses of the first guided coalitions, by our evaluation."""
        return self.ours().means(self.requests[1][: self.sizes.peer_coalitions])

    def against_ours(self, losses: Values) -> dict[str, Any]:
        """How far losses of the first guided coalitions are from ours, in nats."""
        count = min(len(losses), len(self.losses))
        return {"largest difference from ours": float(np.abs(losses[:count] - self.losses[:count]).max())}
