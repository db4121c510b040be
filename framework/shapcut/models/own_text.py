"""Text that a model writes itself: calibration text that needs no data."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from shapcut.models.adapter import Adapter
from shapcut.models.fingerprint import model_fingerprint
from shapcut.support.errors import ShapcutError
from shapcut.support.files import cache_directory, write_text_atomically
from shapcut.support.progress import Reporter

_DOCUMENTS, _MOST_TOKENS = 64, 512
_TOP_P = 0.95
_AT_ONCE, _SHORT_AT_ONCE = 16, 80


@dataclass(frozen=True, slots=True)
class Varied:
    """Short documents of many kinds: each begins with a random token, and all tokens are drawn as they come.

    Attributes:
        documents: number of documents.
        tokens: number of tokens in each.
    """

    documents: int
    tokens: int


def own_text(
    model: nn.Module,
    tokenizer: Any,
    adapter: Adapter,
    *,
    seed: int,
    max_length: int | None,
    reporter: Reporter,
    varied: Varied | None = None,
) -> Path:
    """A file of text that the model has written, in the cache; written once for each model and seed.

    64 documents of 512 tokens, or as many as the model takes, each token sampled from the most likely ones
    of a total probability of 0.95. A document begins after the tokenizer's first special token.

    Args:
        model: in evaluation mode.
        tokenizer: the model's tokenizer.
        adapter: the model's adapter.
        seed: of the samples.
        max_length: longest sequence the model takes, or None if unlimited.
        reporter: reports progress.
        varied: many short documents instead.

    Returns:
        A ``.jsonl`` file.

    Raises:
        UnsupportedModelError: if the adapter cannot sample.
        ShapcutError: if the cache cannot be written.
    """
    asked = varied or Varied(_DOCUMENTS, _MOST_TOKENS)
    asked = replace(asked, tokens=min(asked.tokens, (max_length or asked.tokens + 1) - 1))
    facts: list[Any] = [model_fingerprint(model), _first_token(tokenizer), asked.documents, asked.tokens]
    facts += ["varied" if varied else _TOP_P, seed]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    directory = cache_directory() / "own-text"
    file = directory / f"{digest}.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{digest}.lock"):
            if not file.exists():
                begin = _beginnings(model, tokenizer, asked.documents, seed if varied else None)
                writer = partial(_written, model, tokenizer, adapter, asked.tokens)
                documents = writer(begin, top_p=1.0 if varied else _TOP_P, seed=seed, reporter=reporter)
                write_text_atomically(file, "".join(json.dumps(text) + "\n" for text in documents))
    except OSError as error:
        raise ShapcutError(f"cannot write to the cache folder {directory}: {error.strerror}") from error
    return file


def _beginnings(model: nn.Module, tokenizer: Any, documents: int, seed: int | None) -> Tensor:
    """What documents begin with, shape (documents, 1 or 2): the first token, and a random one with a seed."""
    first = torch.full((documents, 1), _first_token(tokenizer))
    if seed is None:
        return first
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    known = min(len(tokenizer), getattr(embedding, "num_embeddings", len(tokenizer)))
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([first, torch.randint(known, (documents, 1), generator=generator)], dim=1)


def _written(
    model: nn.Module,
    tokenizer: Any,
    adapter: Adapter,
    tokens: int,
    begin: Tensor,
    *,
    top_p: float,
    seed: int,
    reporter: Reporter,
) -> list[str]:
    """What the model writes; documents without any text are left out."""
    texts: list[str] = []
    documents, device = len(begin), adapter.input_device(model)
    with reporter.counting("writing text to calibrate on", documents) as count:
        at_once = _AT_ONCE if begin.shape[1] == 1 else _SHORT_AT_ONCE
        for start in range(0, documents, at_once):
            batch = begin[start : start + at_once].to(device)
            new = tokens + 1 - batch.shape[1]
            ids = adapter.sample(model, batch, new, top_p=top_p, seed=seed * documents + start)
            texts += tokenizer.batch_decode(ids.cpu(), skip_special_tokens=True)
            count(start + len(batch))
    found = [text.strip() for text in texts if text.strip()]
    if not found:
        raise ShapcutError("the model writes no text that could calibrate it; name a text with --calibration")
    return found


def _first_token(tokenizer: Any) -> int:
    """The token that a document begins with."""
    known = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    return next((token for token in known if isinstance(token, int)), 0)
