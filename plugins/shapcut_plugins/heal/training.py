"""A short, resumable training."""

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a damaged file
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from shapcut.contracts import (
    Adapter,
    InputError,
    LearningPoint,
    Reporter,
    fast_matrix_products,
    new_directory,
    read_json,
    write_json_atomically,
)

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, length, vocabulary) and token ids (batch, length) to nats per token."""

HeldBack = Callable[[], dict[str, float]]
"""Returns the current nats per token on each text held back from training."""

_LARGEST_GRADIENT = 1.0
_PATIENCE = 3
"""Checkpoints to wait for the loss on text held back to fall again."""

_DAMAGE = (
    InputError,
    OSError,
    RuntimeError,
    ValueError,
    AttributeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)
_WEIGHTS, _STATE, _DIGESTS = "weights.safetensors", "state.pt", "sha256.json"
_GENERATIONS = 2
"""Checkpoints that are kept: training takes hours, and the last one may be damaged."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate that rises linearly, then falls to zero along half a cosine.

    Attributes:
        steps: total number.
        highest: the highest learning rate.
        warmup: share of the steps with a rising rate.
    """

    steps: int
    highest: float
    warmup: float

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = math.ceil(self.steps * self.warmup)
        if step < rising:
            return self.highest * (step + 1) / (rising + 1)
        return self.highest * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


def text_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token loss, in nats."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Mean KL(wanted | found) of the next token, in nats, times the squared temperature."""
    found = functional.log_softmax(logits.flatten(0, 1).float() / temperature, dim=-1)
    target = functional.log_softmax(wanted.flatten(0, 1).float() / temperature, dim=-1)
    return functional.kl_div(found, target, reduction="batchmean", log_target=True) * temperature**2


class Training:
    """Trains some parameters of a model on windows of text.

    Matrix products are in bf16 where the hardware has them; weights and sums keep their dtype.

    Args:
        model: in evaluation mode.
        adapter: the model's adapter.
        trained: the parameters, by name.
        windows: token ids, shape (windows, length).
        loss: the loss to minimise.
        held_back: measures text that is not trained on; training stops early where that gets worse.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        trained: Mapping[str, nn.Parameter],
        windows: Tensor,
        loss: Loss,
        *,
        held_back: HeldBack | None = None,
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._trained = trained
        self._windows = windows
        self._loss = loss
        self._device = adapter.input_device(model)
        self._optimizer = torch.optim.AdamW(list(trained.values()), lr=0.0, weight_decay=0.0)
        self._held_back = held_back
        self._curve: list[dict[str, Any]] = []

    def learning_points(self, checkpoint_every: int) -> list[LearningPoint]:
        """The mean loss of the batches between checkpoints, and the losses on text held back at each."""
        points, losses = list[LearningPoint](), list[float]()
        for entry in self._curve:
            losses.append(entry["loss"])
            if entry["step"] % checkpoint_every == 0 or entry is self._curve[-1]:
                mean = sum(losses) / len(losses)
                points.append(
                    LearningPoint(step=entry["step"], loss=mean, held_back=entry.get("held_back", {}))
                )
                losses.clear()
        return points

    def run(
        self,
        schedule: Schedule,
        batch: int,
        seed: int,
        *,
        directory: Path,
        identity: Mapping[str, Any],
        checkpoint_every: int,
        reporter: Reporter,
    ) -> None:
        """Run all steps, resuming after those of an earlier start with the same ``identity``."""
        checkpoints = directory / "checkpoints"
        first = self._resume(checkpoints, identity)
        if first:
            reporter.say(f"healing resumes after step {first}")
        if self._gets_worse():  # an earlier start was killed right after it stopped
            return
        with reporter.counting("healing, steps", schedule.steps) as count:
            for step in range(first, schedule.steps):
                self._step(self._batch(step, batch, seed), schedule.rate(step))
                count(step + 1)
                if (step + 1) % checkpoint_every and step + 1 < schedule.steps:
                    continue
                if self._held_back is not None:
                    self._curve[-1]["held_back"] = self._held_back()
                self._keep(checkpoints, step + 1, identity)
                write_json_atomically(directory / "curve.json", _finite(self._curve))
                if self._gets_worse():
                    reporter.say(f"healing stops after step {step + 1}: text held back gets worse")
                    break

    def _gets_worse(self) -> bool:
        """Whether the mean loss on text held back is above its lowest, or infinite, for `_PATIENCE` times."""
        means = [_mean(entry["held_back"]) for entry in self._curve if "held_back" in entry]
        if len(means) <= _PATIENCE:
            return False
        lately = min(means[-_PATIENCE:])
        return math.isinf(lately) or lately > min(means[:-_PATIENCE])

    def _batch(self, step: int, batch: int, seed: int) -> Tensor:
        """The windows of a step, shuffled every epoch by seed and epoch alone."""
        chosen = []
        for place in range(step * batch, (step + 1) * batch):
            epoch, within = divmod(place, len(self._windows))
            generator = torch.Generator().manual_seed((seed << 20) + epoch)
            chosen.append(torch.randperm(len(self._windows), generator=generator)[within])
        return self._windows[torch.stack(chosen)].to(self._device)

    def _step(self, ids: Tensor, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.enable_grad(), fast_matrix_products(self._device):
            loss = self._loss(self._adapter.differentiable_logits(self._model, ids), ids)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained.values(), _LARGEST_GRADIENT)
        self._optimizer.step()
        self._curve.append(
            {"step": len(self._curve) + 1, "loss": float(loss.detach()), "learning_rate": rate}
        )

    def _keep(self, checkpoints: Path, step: int, identity: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically and delete all others but the one before it."""
        latest = checkpoints / f"{step:08d}"
        if latest.exists():
            shutil.rmtree(latest)
        with new_directory(latest) as directory:
            weights = {name: p.detach().cpu().contiguous() for name, p in self._trained.items()}
            save_file(weights, directory / _WEIGHTS)
            state = {
                "optimizer": self._optimizer.state_dict(),
                "curve": self._curve,
                "of": dict(identity),
            }
            torch.save(state, directory / _STATE)
            digests = {name: _digest(directory / name) for name in (_WEIGHTS, _STATE)}
            write_json_atomically(directory / _DIGESTS, digests)
        for older in sorted(checkpoints.glob("[0-9]*"))[:-_GENERATIONS]:
            shutil.rmtree(older)

    def _resume(self, checkpoints: Path, identity: Mapping[str, Any]) -> int:
        """Load the latest intact checkpoint with the same ``identity``; returns the number of its steps.

        Later ones, which are damaged or of another training, are deleted.
        """
        for place in sorted(checkpoints.glob("[0-9]*"), reverse=True):
            read = _read_checkpoint(place, self._device)
            if read is None or read[0]["of"] != dict(identity) or read[1].keys() != self._trained.keys():
                shutil.rmtree(place)
                continue
            state, weights = read
            with torch.no_grad():
                for name, parameter in self._trained.items():
                    parameter.copy_(weights[name])
            self._optimizer.load_state_dict(state["optimizer"])
            self._curve = state["curve"]
            return len(self._curve)
        return 0


def _read_checkpoint(
    directory: Path, device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """State and weights of a checkpoint, or None if it is damaged."""
    try:
        digests = {name: _digest(directory / name) for name in (_WEIGHTS, _STATE)}
        if read_json(directory / _DIGESTS) != digests:
            return None
        state = torch.load(directory / _STATE, map_location=device, weights_only=True)
        if state.keys() != {"optimizer", "curve", "of"}:
            return None
        return state, load_file(directory / _WEIGHTS)
    except _DAMAGE:
        return None


def _mean(losses: Mapping[str, float]) -> float:
    """The mean; infinite if it is not a number, so that it compares."""
    mean = sum(losses.values()) / max(1, len(losses))
    return math.inf if math.isnan(mean) else mean


def _finite(content: Any) -> Any:
    """The same with null for infinities and NaN, which JSON lacks."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
