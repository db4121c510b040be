"""The step that heals a pruned model by a short training."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    InputError,
    LearningCurve,
    LearningPoint,
    Losses,
    PostProcessor,
    Stage,
    StepContext,
    Trial,
    UnsupportedModelError,
    hold_back,
    losses,
    tried_against,
    write_json_atomically,
)
from shapcut_plugins.heal.low_rank import add_low_rank, merge_low_rank, require_peft, without_low_rank
from shapcut_plugins.heal.training import Schedule, Training, distillation_loss, text_loss

_CHECK_TOKENS = 4
_LEARNING_RATES = {False: 1e-3, True: 1e-4}
_LOSSES = {
    "distill": "divergence from the original",
    "text": "next-token loss",
}


class Heal(PostProcessor):
    """Train low-rank additions to the weights of the blocks, or all of their weights, and merge them.

    A killed training resumes from its last checkpoint. The learning curve is written to ``curve.json``, with
    the loss on windows held back from each source of the text. Training stops early where these get worse,
    and the weights are kept only if they lower that loss, and raise it on no source by more than the paired
    interval.

    Args:
        loss: ``distill``: divergence from the full model's distribution; ``text``: next-token loss.
        steps: optimizer steps.
        lr: highest learning rate; 0: 1e-3, or 1e-4 for full training.
        rank: of the additions (LoRA).
        batch: windows per step.
        sequence_length: tokens per window; 0: the recipe's.
        full: train all weights of the blocks instead of low-rank additions.
        temperature: softens both distributions.
        warmup: share of the steps with a rising learning rate; it then falls along half a cosine.
        checkpoint_every: steps between checkpoints.
        trial: whether the trained weights must pass the trial; without it they are kept.
    """

    stage: ClassVar[Stage] = "heal"

    def __init__(
        self,
        *,
        loss: Literal["distill", "text"] = "distill",
        steps: int = 200,
        lr: float = 0.0,
        rank: int = 16,
        batch: int = 8,
        sequence_length: int = 0,
        full: bool = False,
        temperature: float = 1.0,
        warmup: float = 0.1,
        checkpoint_every: int = 25,
        trial: bool = True,
    ) -> None:
        for name, number in (
            ("steps", steps), ("rank", rank), ("batch", batch), ("checkpoint_every", checkpoint_every)
        ):  # fmt: skip
            if number < 1:
                raise ValueError(f"{name}={number}: at least 1 is needed")
        if lr < 0 or temperature <= 0 or not 0 <= warmup <= 1:
            raise ValueError(
                f"lr={lr}, temperature={temperature}, warmup={warmup}: lr may not be negative, temperature "
                "must be positive, warmup between 0 and 1"
            )
        self.loss = loss
        self.rank = rank
        self.batch = batch
        self.sequence_length = sequence_length
        self.full = full
        self.temperature = temperature
        self.checkpoint_every = checkpoint_every
        self.trial = trial
        self.schedule = Schedule(steps, lr or _LEARNING_RATES[full], warmup)

    def check(self, model: nn.Module, adapter: Adapter) -> None:
        """Refuse models that cannot be trained.

        Raises:
            InputError: with the reason.
        """
        if not self.full:
            require_peft()
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError("heal: needs all weights in memory; leave out this step or --offload")
        if any(not parameter.is_floating_point() for parameter in model.parameters()):
            raise InputError("heal: the model is already quantized; leave out this step")
        ids = torch.arange(_CHECK_TOKENS, device=adapter.input_device(model))[None]
        parameter = next(model.parameters())
        before = parameter.requires_grad
        try:
            parameter.requires_grad_()
            trains = adapter.differentiable_logits(model, ids).requires_grad
        except UnsupportedModelError as error:
            raise InputError(f"heal: {error}; leave out this step") from error
        finally:
            parameter.requires_grad_(before)
        if not trains:
            raise InputError(f"heal: {type(model).__name__} has no gradients; leave out this step")

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Train, merge, and convert the model back to its own dtype."""
        formats = {name: parameter.dtype for name, parameter in model.named_parameters()}
        texts = context.windows_by_text(self.sequence_length or context.calibration.shape[1])
        fitted, held = hold_back(texts)
        with torch.no_grad():
            before = losses(context.adapter, model, held)
        start: dict[str, Tensor] = {}
        wrapped: Any = None
        if self.full:
            trained = _block_parameters(model.float(), context.adapter)
            start = {name: parameter.to("cpu", copy=True) for name, parameter in trained.items()}
        else:
            wrapped = add_low_rank(model, context.adapter, self.rank, context.seed)
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        teacher = context.original() if self.loss == "distill" else None
        training = Training(
            model,
            context.adapter,
            trained,
            torch.cat(list(fitted.values())),
            self._loss(context.adapter, teacher),
            held_back=partial(_nats, context.adapter, model, held) if self.trial else None,
        )
        for parameter in trained.values():
            parameter.requires_grad_()
        training.run(
            self.schedule,
            self.batch,
            context.seed,
            directory=context.directory,
            identity=self._identity(context),
            checkpoint_every=self.checkpoint_every,
            reporter=context.reporter,
        )
        model.requires_grad_(requires_grad=False)
        after = losses(context.adapter, model, held)
        improves = self._improves(context, tried_against(before, after))
        points = training.learning_points(self.checkpoint_every)
        context.keep_curve(_learning_curve(_LOSSES[self.loss], points, before, after, kept=improves))
        if wrapped is not None:
            model = merge_low_rank(wrapped) if improves else without_low_rank(wrapped)
        elif not improves:
            for name, parameter in trained.items():
                parameter.data.copy_(start[name])
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(formats[name])
        return model

    def _improves(self, context: StepContext, tried: Trial) -> bool:
        """Whether to keep the trained weights; says what became of them."""
        keeps = tried.improves or not self.trial
        write_json_atomically(context.directory / "trial.json", {"kept": keeps, "held_back": tried.to_json()})
        if keeps:
            context.note(f"healed; perplexity on text held back {tried.summary()}")
        else:
            context.note(f"not healed: {tried.summary()} in perplexity on text held back")
        return keeps

    def _loss(self, adapter: Adapter, teacher: nn.Module | None) -> Any:
        if teacher is None:
            return text_loss

        def loss(logits: Tensor, ids: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = adapter.differentiable_logits(teacher, ids)
            return distillation_loss(logits, wanted, self.temperature)

        return loss

    def _identity(self, context: StepContext) -> dict[str, Any]:
        """The settings that a checkpoint must match to be resumed."""
        return {
            "loss": self.loss,
            "schedule": [self.schedule.steps, self.schedule.highest, self.schedule.warmup],
            "rank": 0 if self.full else self.rank,
            "batch": self.batch,
            "temperature": self.temperature,
            "removed": list(context.plan.removed),
            "model": context.plan.model_fingerprint,
            "seed": context.seed,
        }


def _learning_curve(
    loss: str, points: Sequence[LearningPoint], before: Losses, after: Losses, *, kept: bool
) -> LearningCurve:
    """The curve with the losses on text held back at both ends, which every training measures."""
    start = LearningPoint(step=0, loss=None, held_back=_each(before))
    end = points[-1].model_copy(update={"held_back": _each(after)})
    return LearningCurve(loss=loss, kept=kept, points=(start, *points[:-1], end))


def _each(found: Losses) -> dict[str, float]:
    return {text: result.nats_per_token for text, result in found.items()}


def _nats(adapter: Adapter, model: nn.Module, held: Mapping[str, Tensor]) -> dict[str, float]:
    """The model's nats per token on each text."""
    with torch.no_grad():
        return _each(losses(adapter, model, held))


def _block_parameters(model: nn.Module, adapter: Adapter) -> dict[str, nn.Parameter]:
    """The players' parameters, by name."""
    names = tuple(f"{player.name}." for player in adapter.players(model))
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(names)}
