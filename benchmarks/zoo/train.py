"""Train a model of the zoo from its recipe: python benchmarks/zoo/train.py NAME [--steps N] [--out DIR].

With ``--tokenizer DIR`` it has the vocabulary of a tokenizer that is there already, for measurements of large
ones.

Killed at any moment, the same command goes on where the last checkpoint was and ends with the same weights.
"""

import argparse
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from architectures import ARCHITECTURES
from corpus import Corpus, corpus_of, model_directory, new_corpus, random_windows, spread_windows
from measure import language_loss, left_out, next_token_loss, write_measurements
from recurrences import fast_recurrences
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from shapcut.support.files import write_json_atomically, write_text_atomically

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        architecture: a name in `ARCHITECTURES`.
        config: of the model, as its configuration class takes it.
        vocabulary: entries of the tokenizer.
        seed: of the first weights, the order of the text and the blocks left out.
        steps: of the optimizer.
        batch: windows a step.
        sequence_length: tokens a window.
        learning_rate: the highest one, reached after `warm_up` steps and followed by half a cosine.
        warm_up: steps.
        weight_decay: of matrices.
        drop_blocks: how often each block but the first is left out of a training step.
        replace_tokens: how often a token of the context is replaced by a random one in a training step.
        report_every: steps between points of the loss curve.
        checkpoint_every: steps.
        balance: weight of the loss that a mixture of experts has if it does not route to all alike.
    """

    architecture: str
    config: dict[str, Any]
    vocabulary: int
    seed: int
    steps: int
    batch: int
    sequence_length: int
    learning_rate: float
    warm_up: int
    weight_decay: float
    drop_blocks: float
    replace_tokens: float
    report_every: int
    checkpoint_every: int
    balance: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a YAML file."""
        return cls(**yaml.safe_load(path.read_text(encoding="utf-8")))

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first one being 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(slots=True)
class Training:
    """A training in progress."""

    recipe: Recipe
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @classmethod
    def start(cls, recipe: Recipe) -> "Training":
        """With the first weights."""
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        config = {"vocab_size": recipe.vocabulary, **special, **recipe.config}
        model = ARCHITECTURES[recipe.architecture].build(config, recipe.seed)
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return cls(recipe, model.train(), torch.optim.AdamW(groups, betas=(0.9, 0.98)))

    def save(self, path: Path, started: float) -> None:
        """Write everything that a later process needs, or nothing."""
        temporary = path.with_suffix(".partial")
        content = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "curve": self.curve,
            "losses": self.losses,
            "cpu_seconds": self.cpu_seconds + time.process_time() - started,
        }
        torch.save(content, temporary)
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe."""
        content = torch.load(path, weights_only=True)
        if content["recipe"] != asdict(self.recipe):
            sys.exit(f"{path} belongs to another recipe: remove it to start anew")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.curve, self.losses = content["step"], content["curve"], content["losses"]
        self.cpu_seconds = content["cpu_seconds"]


def take_step(training: Training, corpus: Corpus) -> None:
    """One step of the optimizer; its randomness depends on seed and step alone."""
    recipe, model = training.recipe, training.model
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + training.step)
    tokens = random_windows(corpus.training, recipe.batch, recipe.sequence_length, generator)
    context = replaced(tokens, recipe, generator)
    for group in training.optimizer.param_groups:
        group["lr"] = recipe.rate(training.step)
    blocks = ARCHITECTURES[recipe.architecture].blocks_of(model)[1:]  # the first one normalizes the embedding
    dropped = (torch.rand(len(blocks), generator=generator) < recipe.drop_blocks).tolist()
    with left_out(list(compress(blocks, dropped))):
        loss = training_loss(model, context, tokens, recipe.balance)
    training.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    training.optimizer.step()
    training.losses.append(loss.item())
    training.step += 1


def training_loss(model: PreTrainedModel, context: Tensor, tokens: Tensor, balance: float) -> Tensor:
    """The language loss and, for a mixture of experts, that of unequal routing."""
    if not balance:
        return language_loss(model, context, tokens)
    output = model(input_ids=context, use_cache=False, output_router_logits=True)
    return next_token_loss(output.logits, tokens) + balance * output.aux_loss


def replaced(tokens: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """The tokens with some of them replaced by random ones."""
    noise = torch.randint(1, recipe.vocabulary, tokens.shape, generator=generator)
    chosen = torch.rand(tokens.shape, generator=generator) < recipe.replace_tokens
    return torch.where(chosen, noise, tokens)


def train(recipe: Recipe, out: Path, corpus: Corpus) -> None:
    """Train to the end of the recipe, or from the checkpoint in ``out``, and write the model there."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    training = Training.start(recipe)
    if (out / CHECKPOINT).exists():
        training.restore(out / CHECKPOINT)
    with fast_recurrences():
        while training.step < recipe.steps:
            take_step(training, corpus)
            if training.step % recipe.report_every == 0 or training.step == recipe.steps:
                report(training, corpus, started)
            if training.step % recipe.checkpoint_every == 0:
                training.save(out / CHECKPOINT, started)
        write(training, corpus, out)
    (out / CHECKPOINT).unlink(missing_ok=True)


def report(training: Training, corpus: Corpus, started: float) -> None:
    """Add a point to the loss curve and print it."""
    recipe = training.recipe
    windows = spread_windows(corpus.held_out, recipe.sequence_length, 32)
    training.model.eval()
    with torch.no_grad():
        held_out = language_loss(training.model, windows).item()
    training.model.train()
    point = {
        "step": training.step,
        "tokens": training.step * recipe.batch * recipe.sequence_length,
        "train_loss": round(sum(training.losses) / len(training.losses), 4),
        "held_out_loss": round(held_out, 4),
        "cpu_seconds": round(training.cpu_seconds + time.process_time() - started, 1),
    }
    training.curve.append(point)
    training.losses.clear()
    print(" ".join(f"{name} {value}" for name, value in point.items()), file=sys.stderr, flush=True)


def save_model(model: PreTrainedModel, out: Path) -> None:
    """Save a model without the source code of the package that its class is from."""
    with ExitStack() as stack:
        for kind in (type(model), type(model.config)):
            stack.enter_context(patch.object(kind, "_auto_class", None))
        if hasattr(model.config, "auto_map"):
            del model.config.auto_map
        model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # saved for its owner alone


def write(training: Training, corpus: Corpus, out: Path) -> None:
    """Write the model, its tokenizer, recipe, loss curve and measurements."""
    recipe, model = training.recipe, training.model
    model.config.use_cache = True
    save_model(model, out)
    corpus.tokenizer.save_pretrained(out)
    write_text_atomically(out / "recipe.yaml", yaml.safe_dump(asdict(recipe), sort_keys=False))
    write_json_atomically(out / "curve.json", training.curve)
    measured = write_measurements(ARCHITECTURES[recipe.architecture], out)
    print(f"{out}: held-out perplexity {measured['held_out_perplexity']}", file=sys.stderr)


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, help="instead of the model's own directory")
    parser.add_argument("--tokenizer", type=Path, help="directory of one to use instead of a new one")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    recipe = Recipe.read(model_directory(options.name) / "recipe.yaml")
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    corpus = corpus_of(options.tokenizer) if options.tokenizer else new_corpus(recipe.vocabulary)
    recipe = replace(recipe, vocabulary=len(corpus.tokenizer))
    train(recipe, options.out or model_directory(options.name), corpus)


if __name__ == "__main__":
    main()
