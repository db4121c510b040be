"""The layer-pruning game of a model."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.checkpoint_form import AllowedForm, CheckpointForm
from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.game.game import Measurements, WindowMeans, WindowPart, as_measurements, over_text
from shapcut.game.granularity import Granularity
from shapcut.models.adapter import Adapter
from shapcut.models.fingerprint import model_fingerprint
from shapcut.models.forms import chosen_form
from shapcut.models.loading import Residence, copied_as, is_offloaded, weight_devices
from shapcut.models.placement import check_dtype
from shapcut.models.quantization import is_quantized
from shapcut.support.allocator import keep_freed_memory
from shapcut.support.errors import InputError
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.evaluator import Evaluator, Work
from shapcut.valuation.executor import PortableGame
from shapcut.valuation.game_spec import GameOrigin, GameSpec
from shapcut.valuation.model_access import ModelAccess
from shapcut.valuation.precision import default_memory_budget, evaluation_dtype
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut.valuation.state_memory import most_windows_per_step
from shapcut.valuation.utilities import LogLikelihood, ModelUtility, Utility, check_measure

_PACKAGES = ("shapcut", "torch", "transformers")
"""Packages whose versions are part of a game's fingerprint."""


class ModelGame(PortableGame):
    """Coalitions of a model's layers, valued on calibration tokens.

    Args:
        model: a loaded model in evaluation mode; it is never changed.
        adapter: the model's adapter.
        input_ids: calibration tokens, shape (samples, length).
        utility: the value of a coalition; default `LogLikelihood`.
        granularity: what a player is.
        form: which forms of checkpoints a permitted set may take.
        dtype: number format of the evaluation: auto, float32, bfloat16 or float16.
        memory_budget: bytes for the states of coalitions; default: a share of free memory.
        fuse: run blocks as fused kernels where possible; changes the last bits of values.
        sequences_per_step: maximum sequences per layer call; default: by their length.
        sampled: whether to read out a part of a large vocabulary, see
            `shapcut.valuation.readout.SampledLoss`; its values are estimates.
        origin: source of model and utility, from which other processes can rebuild the game.

    Raises:
        InputError: if the dtype is unavailable for the model's weights; on evaluation, if the whole model's
            value is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        input_ids: Tensor,
        *,
        utility: Utility | None = None,
        granularity: Granularity = "block",
        form: AllowedForm = "plain",
        dtype: str = "auto",
        memory_budget: int | None = None,
        fuse: bool = False,
        sequences_per_step: int | None = None,
        sampled: bool = False,
        origin: GameOrigin | None = None,
    ) -> None:
        self._residence = Residence(model)
        self.adapter = adapter
        self.utility = utility or LogLikelihood()
        self.granularity = granularity
        check_measure(self.utility)
        self.form = form
        self._players = adapter.players(model, granularity)
        self._device = adapter.input_device(model)
        self.input_ids = input_ids.to(self._device)
        check_dtype(dtype)
        self.own_dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
        # A user's function sees the model as loaded; offloaded and quantized weights are not converted.
        quantized = is_quantized(model)
        as_loaded = isinstance(self.utility, ModelUtility) or is_offloaded(model) or quantized
        self.dtype = (
            self.own_dtype
            if as_loaded and dtype == "auto"
            else evaluation_dtype(
                dtype, self.own_dtype, self._device, partial(adapter.dtype_objection, model)
            )
        )
        if is_offloaded(model) and self.dtype != self.own_dtype:
            raise InputError(
                f"--dtype {dtype} is unavailable with --offload: weights loaded on each use stay "
                f"{str(self.own_dtype).removeprefix('torch.')}; leave one of them out"
            )
        if quantized and self.dtype != self.own_dtype:
            raise InputError(
                f"--dtype {dtype} is unavailable: the model is quantized, and its other weights stay "
                f"{str(self.own_dtype).removeprefix('torch.')}; leave the option out"
            )
        self.fuse = fuse
        self._memory_budget = memory_budget
        self._sequences_per_step = sequences_per_step
        self.sampled = sampled
        self._origin = origin
        # Before the first forward pass, in which some libraries repack quantized weights.
        self.model_fingerprint = model_fingerprint(model)
        self._permitted: dict[frozenset[int], bool] = {}
        self._converted: list[nn.Module] = []
        self._whole: ModelGame | None = None
        self._checks_model = True

    def on(
        self,
        input_ids: Tensor,
        *,
        utility: Utility | None = None,
        dtype: torch.dtype | None = None,
        fuse: bool | None = None,
        sampled: bool = False,
        checks_model: bool = True,
    ) -> "ModelGame":
        """The same game on other tokens; both share a converted model.

        Args:
            input_ids: the tokens, shape (samples, length).
            utility: another token utility; other processes cannot build such a game.
            dtype: another number format of the evaluation.
            fuse: whether to run blocks as fused kernels; default: as this game does.
            sampled: whether to read out a part of a large vocabulary.
            checks_model: whether to measure the whole model first and raise if its value is not finite.
        """
        other = copy.copy(self)
        vars(other).pop("evaluator", None)
        vars(other).update(_whole=None, sampled=sampled, _checks_model=checks_model)
        if utility is not None:
            vars(other).update(utility=utility, _origin=None)
        other.input_ids = input_ids.to(self._device)
        other.dtype = dtype or self.dtype
        other.fuse = self.fuse if fuse is None else fuse
        return other

    @property
    def model(self) -> nn.Module:
        """The model, on its device."""
        return self._residence.present()

    def leave_device(self) -> None:
        """Move the model to main memory and drop converted copies and states, until it is used again."""
        vars(self).pop("evaluator", None)
        self._converted.clear()
        self._residence.leave()

    @property
    def players(self) -> tuple[Player, ...]:
        """The adapter's players."""
        return self._players

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the adapter can remove this set in an allowed form; answers are cached."""
        key = frozenset(absent)
        if key not in self._permitted:
            self._permitted[key] = self.form_of(absent) is not None
        return self._permitted[key]

    def form_of(self, absent: Sequence[int]) -> CheckpointForm | None:
        """The form in which this set is removed, or None if it cannot be in an allowed one."""
        return chosen_form(self.adapter, self._residence.model, absent, self.granularity, self.form)

    @property
    def access(self) -> ModelAccess:
        """The model in its own number format."""
        return ModelAccess(self.model, self.adapter, self.input_ids, self.granularity)

    @property
    def tokens(self) -> int:
        """Number of calibration tokens."""
        return self.input_ids.numel()

    @property
    def windows(self) -> int:
        """Number of windows; 0 for a `ModelUtility`, which has none."""
        return 0 if isinstance(self.utility, ModelUtility) else len(self.input_ids)

    @property
    def windows_per_step(self) -> int:
        """Windows in one layer call: a value is the same however windows are parted by multiples of it."""
        stack = self.adapter.stack(self.model, self.granularity)
        if stack is None:
            return 1
        windows, length = (self._whole or self).input_ids.shape
        return stack.batch_size or most_windows_per_step((windows, length), self._sequences_per_step)

    @property
    def narrowing_unit(self) -> int:
        """The tokens of a layer call."""
        return self.windows_per_step * self.input_ids.shape[1] if self.windows else 0

    def narrowed(self, tokens: int) -> "ModelGame":
        """The game on the first windows only; itself for a `ModelUtility`, which has no windows."""
        windows = max(1, tokens // self.input_ids.shape[1])
        if windows >= len(self.input_ids) or isinstance(self.utility, ModelUtility):
            return self
        other = copy.copy(self)
        vars(other).pop("evaluator", None)
        vars(other).update(_whole=self._whole or self, input_ids=self.input_ids[:windows])
        return other

    @property
    def _evaluated_model(self) -> nn.Module:
        """The model in the evaluation dtype: itself, or a lazy copy."""
        if self.dtype == self.own_dtype:
            return self.model
        if not self._converted:
            self._converted.append(copied_as(self.model, self.dtype))
        return self._converted[0]

    @cached_property
    def evaluator(self) -> Evaluator:
        """The fast path if the adapter has one, else a bypassed forward pass per coalition.

        A narrowed game has the whole game's.
        """
        if self._whole is not None:
            return self._whole.evaluator
        if not is_offloaded(self.model):
            keep_freed_memory()
        if isinstance(self.utility, ModelUtility):
            raise TypeError("a model utility is called on the model itself")
        model, measure = self._evaluated_model, self.utility.measure
        stack = self.adapter.stack(model, self.granularity)
        evaluator: Evaluator
        if stack is None:
            evaluator = BypassEvaluator(self.adapter, model, self.input_ids, measure, self.granularity)
        else:
            placement = Placement(
                self._memory_budget or default_memory_budget(*weight_devices(model)),
                self.fuse,
                self._sequences_per_step,
                self.sampled,
                self._checks_model,
            )
            evaluator = CoalitionEvaluator(stack, self.n_players, self.input_ids, measure, placement)
        if self._checks_model and not np.isfinite(evaluator.full_mean):
            raise InputError(
                f"the whole model's loss on the calibration text is {evaluator.full_mean}; "
                "try --dtype float32 or other text"
            )
        return evaluator

    @property
    def work(self) -> Work:
        """The cost of evaluation so far."""
        evaluator: Evaluator | None = vars(self._whole or self).get("evaluator")
        return Work() if evaluator is None else evaluator.work

    def window_parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """The measure's means on some windows; see `Evaluator.parts`."""
        return self.evaluator.parts(coalitions, first, last)

    def combined(self, means: WindowMeans, full: WindowMeans | None = None) -> Measurements:
        """The utility of each coalition on all windows, on every second window and on the others."""
        utility = self.utility
        if isinstance(utility, ModelUtility):
            raise TypeError("a model utility has no windows")
        if full is None and utility.uses_full_mean:
            full = self.evaluator.full[None, : self.windows]
        of_all = [np.nan] * 3 if full is None else over_text(full)[0].tolist()
        parts = over_text(means)
        return np.column_stack([utility.value(parts[:, part], of_all[part]) for part in range(3)])

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """As `combined`; a `ModelUtility` has no halves."""
        utility = self.utility
        if not isinstance(utility, ModelUtility):
            return super().measurements(coalitions)
        if not np.isfinite(self._full_model_value):
            raise InputError(f"the whole model's {utility.name} is {self._full_model_value}")
        return as_measurements(np.array([self._model_value(row, utility) for row in coalitions], np.float64))

    @cached_property
    def _full_model_value(self) -> float:
        if not isinstance(self.utility, ModelUtility):
            raise TypeError("a token utility is measured by the evaluator")
        return self._model_value(np.ones(self.n_players, dtype=np.bool_), self.utility)

    def _model_value(self, coalition: NDArray[np.bool_], utility: ModelUtility) -> float:
        present = np.flatnonzero(coalition).tolist()
        with self.adapter.bypass(self._evaluated_model, present, self.granularity):
            value: Any = utility.function(self._evaluated_model)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the utility {utility.name!r} gives {type(value).__name__}, which is no number"
            ) from error

    def fingerprint(self) -> dict[str, str]:
        """Everything that the game's values depend on; the machine and its threads are not part of it."""
        return {
            **{name: _version(name) for name in (*_PACKAGES, self.adapter.library)},
            "model": self.model_fingerprint,
            "data": hashlib.sha256(self.input_ids.cpu().numpy().tobytes()).hexdigest(),
            "tokens": "x".join(str(size) for size in self.input_ids.shape),
            "utility": self.utility.name,
            "granularity": self.granularity,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self._device.type,
            "adapter": self.adapter.name,
            "kernels": "fused" if self.fuse else "eager",
            "vocabulary": "sampled" if self.sampled else "whole",
        }

    def with_model(self, model: nn.Module) -> "ModelGame":
        """The same game on another copy of its model."""
        game = copy.copy(self)
        vars(game).pop("evaluator", None)  # it holds the first copy
        vars(game).update(_residence=Residence(model), _converted=[], _whole=None)
        return game

    def spec(self) -> GameSpec:
        """The spec from which another process builds this game.

        Raises:
            InputError: if the utility is a function or the model was passed in memory.
        """
        if self._origin is None or isinstance(self.utility, ModelUtility):
            only_here = (
                f"the utility {self.utility.name!r} is a function"
                if isinstance(self.utility, ModelUtility)
                else "the model was passed in memory"
            )
            raise InputError(f"{only_here}, so other processes cannot measure it; use the executor 'local'")
        return GameSpec(
            origin=self._origin.located(),
            device=self._device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            granularity=self.granularity,
            fuse=self.fuse,
            memory_budget=self._memory_budget,
            sequences_per_step=self._sequences_per_step,
            sampled=self.sampled,
            weight_bytes=sum(
                weight.numel() * weight.element_size() for weight in self._residence.model.parameters()
            ),
            input_ids=self.input_ids.cpu().numpy(),
            fingerprint=self.fingerprint(),
        )


def _version(distribution: str) -> str:
    """The distribution's version without a build suffix such as ``+cpu``."""
    try:
        return metadata.version(distribution).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"
