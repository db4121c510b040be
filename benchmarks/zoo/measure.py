"""What a model of the zoo is worth: perplexity of held-out text, and what each block adds to it."""

from collections.abc import Sequence
from typing import Any

import torch
from corpus import Corpus, spread_windows, unigram_perplexity
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

BLOCK_WINDOWS = 64
_BATCH = 16


def language_loss(model: PreTrainedModel, context: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood in nats of each window's tokens but the first, given those before."""
    logits = model(input_ids=context, use_cache=False).logits[:, :-1]
    wanted = (context if targets is None else targets)[:, 1:]
    return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, windows: Tensor) -> float:
    """`language_loss` of all windows, a few at a time."""
    parts = windows.split(_BATCH)
    return sum(language_loss(model, part).item() * len(part) for part in parts) / len(windows)


def measurements(
    model: PreTrainedModel, blocks: Sequence[nn.Module], corpus: Corpus, length: int
) -> dict[str, Any]:
    """Perplexities of held-out text, and the loss when one block returns what it was given."""
    perplexity = torch.tensor(held_out_loss(model, spread_windows(corpus.held_out, length))).exp().item()
    unigram = unigram_perplexity(corpus)
    windows = spread_windows(corpus.held_out, length, BLOCK_WINDOWS)
    whole = held_out_loss(model, windows)
    return {
        "text": corpus.origin,
        "text_sha256": corpus.fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sequence_length": length,
        "held_out_tokens": len(corpus.held_out),
        "held_out_perplexity": round(perplexity, 2),
        "unigram_perplexity": round(unigram, 2),
        "factor": round(unigram / perplexity, 2),
        "loss_added_without_block": [round(loss - whole, 4) for loss in _losses_without(model, blocks, windows)],
    }


def _losses_without(model: PreTrainedModel, blocks: Sequence[nn.Module], windows: Tensor) -> list[float]:
    losses = []
    for block in blocks:
        handle = block.register_forward_hook(pass_through)
        losses.append(held_out_loss(model, windows))
        handle.remove()
    return losses


def pass_through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """A forward hook with which a block adds nothing to the residual stream."""
    del module
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]
