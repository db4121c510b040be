"""What a model of the zoo is worth: perplexity of held-out text, and what each block adds to it.

python benchmarks/zoo/measure.py NAME   # measures a model in its directory again
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES, Architecture
from corpus import corpus_of, model_directory, spread_windows, unigram_perplexity
from recurrences import fast_recurrences
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from shapcut.support.files import write_json_atomically

LENGTH = 128
"""Tokens a window in all measurements, as in shapcut's own by default."""

BLOCK_WINDOWS = 64
_BATCH = 16


def language_loss(model: PreTrainedModel, context: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood in nats of each window's tokens but the first, given those before."""
    logits = model(input_ids=context, use_cache=False).logits
    return next_token_loss(logits, context if targets is None else targets)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of each window's tokens but the first."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, windows: Tensor) -> float:
    """`language_loss` of all windows, a few at a time."""
    parts = windows.split(_BATCH)
    return sum(language_loss(model, part).item() * len(part) for part in parts) / len(windows)


def write_measurements(architecture: Architecture, directory: Path) -> dict[str, Any]:
    """Measure the model in a directory and write what was found beside it.

    These are its perplexity on held-out text, that of token frequencies, and what is added to its loss when
    one block returns what it was given.
    """
    model = architecture.model_class.from_pretrained(directory).eval()
    corpus = corpus_of(directory)
    perplexity = math.exp(held_out_loss(model, spread_windows(corpus.held_out, LENGTH)))
    unigram = unigram_perplexity(corpus)
    windows = spread_windows(corpus.held_out, LENGTH, BLOCK_WINDOWS)
    whole = held_out_loss(model, windows)
    losses = _losses_without(model, architecture.blocks_of(model), windows)
    measured = {
        "text": corpus.origin,
        "text_sha256": corpus.fingerprint,
        "parameters": model.num_parameters(),
        "bytes": (directory / "model.safetensors").stat().st_size,
        "sequence_length": LENGTH,
        "held_out_tokens": len(corpus.held_out),
        "held_out_perplexity": round(perplexity, 2),
        "unigram_perplexity": round(unigram, 2),
        "factor": round(unigram / perplexity, 2),
        "loss_added_without_block": [round(loss - whole, 6) for loss in losses],
    }
    write_json_atomically(directory / "measurements.json", measured)
    return measured


def _losses_without(model: PreTrainedModel, blocks: Sequence[nn.Module], windows: Tensor) -> list[float]:
    losses = []
    for block in blocks:
        with left_out([block]):
            losses.append(held_out_loss(model, windows))
    return losses


@contextmanager
def left_out(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """While the context is open, some blocks return what they were given."""
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(_pass_through).remove)
        yield


def _pass_through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    del module
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    name = parser.parse_args().name
    torch.set_num_threads(1)
    with fast_recurrences():
        write_measurements(ARCHITECTURES[name], model_directory(name))


if __name__ == "__main__":
    main()
