"""The tokens that the zoo is trained and measured on: both parts of shapcut's built-in text."""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shapcut.data.text import builtin_text, split_text

END = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Corpus:
    """One text in two parts, tokenized.

    Attributes:
        tokenizer: trained on the training part alone, of this or another version of Python.
        training: token ids, shape (n_tokens,).
        held_out: token ids, shape (n_tokens,).
        fingerprint: SHA-256 of the whole text; the text depends on the version of Python.
    """

    tokenizer: PreTrainedTokenizerFast
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    fingerprint: str

    @property
    def origin(self) -> str:
        """The text in words."""
        return f"shapcut's built-in text of Python {platform.python_version()}"


def new_corpus(vocabulary: int, training_characters: int | None = None) -> Corpus:
    """The corpus with a new tokenizer of so many entries; a test may shorten the part for training."""
    training, _ = split_text(builtin_text())
    return _corpus(byte_tokenizer(training[:training_characters], vocabulary), training_characters)


def corpus_of(directory: Path) -> Corpus:
    """The corpus with the tokenizer of a model that is kept in a directory."""
    return _corpus(PreTrainedTokenizerFast.from_pretrained(directory))


def _corpus(tokenizer: PreTrainedTokenizerFast, training_characters: int | None = None) -> Corpus:
    text = builtin_text()
    training, held_out = split_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(
        tokenizer, _ids(tokenizer, training[:training_characters]), _ids(tokenizer, held_out), digest
    )


def byte_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of so many entries; one of them ends a text and is never produced by encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


def unigram_perplexity(corpus: Corpus) -> float:
    """Held-out perplexity of the training part's token frequencies, one added to each count."""
    counts = np.bincount(corpus.training, minlength=len(corpus.tokenizer)) + 1.0
    return float(np.exp(-np.log(counts[corpus.held_out] / counts.sum()).mean()))


def random_windows(
    tokens: NDArray[np.int64], count: int, length: int, generator: torch.Generator
) -> torch.Tensor:
    """Windows that begin anywhere, shape (count, length)."""
    starts = torch.randint(len(tokens) - length + 1, (count, 1), generator=generator)
    return torch.from_numpy(tokens)[starts + torch.arange(length)]


def spread_windows(tokens: NDArray[np.int64], length: int, count: int | None = None) -> torch.Tensor:
    """Evenly spread windows that do not overlap, shape (count, length); all of them without a count."""
    windows = torch.from_numpy(tokens[: len(tokens) // length * length]).view(-1, length)
    chosen = torch.arange(count or len(windows)) * len(windows) // (count or len(windows))
    return windows[chosen]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> NDArray[np.int64]:
    return np.asarray(tokenizer.backend_tokenizer.encode(text).ids, dtype=np.int64)


def model_directory(name: str) -> Path:
    """Where a model of the zoo is kept."""
    return Path(__file__).parent / "models" / name
