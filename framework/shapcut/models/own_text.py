"""Text that a model writes itself: calibration text that needs no data."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from shapcut.models.adapter import Adapter
from shapcut.models.fingerprint import model_fingerprint
from shapcut.support.errors import ShapcutError
from shapcut.support.files import cache_directory, write_text_atomically
from shapcut.support.progress import Reporter

_DOCUMENTS, _MOST_TOKENS = 64, 512
_TOP_P = 0.95
_AT_ONCE = 16


def own_text(
    model: nn.Module,
    tokenizer: Any,
    adapter: Adapter,
    *,
    seed: int,
    max_length: int | None,
    reporter: Reporter,
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

    Returns:
        A ``.jsonl`` file.

    Raises:
        UnsupportedModelError: if the adapter cannot sample.
        ShapcutError: if the cache cannot be written.
    """
    tokens = min(_MOST_TOKENS, (max_length or _MOST_TOKENS + 1) - 1)
    facts = [model_fingerprint(model), _first_token(tokenizer), _DOCUMENTS, tokens, _TOP_P, seed]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    directory = cache_directory() / "own-text"
    file = directory / f"{digest}.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{digest}.lock"):
            if not file.exists():
                documents = _documents(model, tokenizer, adapter, tokens, seed=seed, reporter=reporter)
                write_text_atomically(file, "".join(json.dumps(text) + "\n" for text in documents))
    except OSError as error:
        raise ShapcutError(f"cannot write to the cache folder {directory}: {error.strerror}") from error
    return file


def _documents(
    model: nn.Module, tokenizer: Any, adapter: Adapter, tokens: int, *, seed: int, reporter: Reporter
) -> list[str]:
    """What the model writes; documents without any text are left out."""
    begin = torch.full((_AT_ONCE, 1), _first_token(tokenizer), device=adapter.input_device(model))
    texts: list[str] = []
    with reporter.counting("writing text to calibrate on", _DOCUMENTS) as count:
        for start in range(0, _DOCUMENTS, _AT_ONCE):
            ids = adapter.sample(model, begin, tokens, top_p=_TOP_P, seed=seed * _DOCUMENTS + start)
            texts += tokenizer.batch_decode(ids.cpu(), skip_special_tokens=True)
            count(start + _AT_ONCE)
    found = [text.strip() for text in texts if text.strip()]
    if not found:
        raise ShapcutError("the model writes no text that could calibrate it; name a text with --calibration")
    return found


def _first_token(tokenizer: Any) -> int:
    """The token that a document begins with."""
    known = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    return next((token for token in known if isinstance(token, int)), 0)
