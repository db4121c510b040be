"""The prompts of a check: held-out text as token ids."""

from dataclasses import dataclass
from typing import Any

import torch

from shapcut.data.windows import Calibration, load_held_out
from shapcut.models.loading import load_tokenizer
from shapcut.models.source import ModelSource, read_config
from shapcut.models.untrusted import require_plain_templates
from shapcut.serving.record import Text
from shapcut.support.errors import InputError

NO_TOKENIZER = "random token ids, as the model has no tokenizer"

_PROMPTS, _LENGTH, _TIMED = 3, 48, 128


@dataclass(frozen=True, slots=True)
class Prompts:
    """What an engine reads.

    Attributes:
        tokens: token ids, one tuple for each prompt.
        timed: the prompt that is timed: the others one after the other, repeated as needed.
        text: where they come from.
    """

    tokens: tuple[tuple[int, ...], ...]
    timed: tuple[int, ...]
    text: Text


@dataclass(frozen=True, eq=False, slots=True)
class ServedFacts:
    """What a request needs to know of a model.

    Attributes:
        vocabulary: number of tokens.
        longest: longest sequence that it takes, or None if unlimited.
        unread: values of its config that transformers does not read from its file.
    """

    vocabulary: int
    longest: int | None
    unread: dict[str, Any]

    @classmethod
    def of(cls, source: ModelSource) -> "ServedFacts":
        """Read a model's config.

        Raises:
            InputError: if it cannot be read.
        """
        config = read_config(source.location, source.trust_remote_code).get_text_config()
        kinds = getattr(config, "layer_types", None)  # a GGUF file states them; transformers counts layers
        is_gguf = source.location.gguf_file is not None
        return cls(
            config.vocab_size,
            getattr(config, "max_position_embeddings", None),
            {"layer_types": list(kinds)} if is_gguf and kinds is not None else {},
        )


def read_prompts(source: ModelSource, text: str, new_tokens: int) -> Prompts:
    """Prompts from the held-out part of a text, as long as the model allows.

    Args:
        source: the cut model, with its tokenizer.
        text: ``builtin``, a file or a data set of the hub.
        new_tokens: tokens that are to follow each prompt.

    Raises:
        InputError: if the model or the text cannot be read.
    """
    facts = ServedFacts.of(source)
    room = (facts.longest or _TIMED + new_tokens) - new_tokens
    windows = _windows(source, text, max(2, min(_LENGTH, room)), facts.vocabulary)
    tokens = tuple(tuple(row) for row in windows.input_ids.tolist())
    together = [token for row in tokens for token in row]
    timed = max(2, min(_TIMED, room))
    return Prompts(
        tokens,
        tuple((together * (1 + timed // len(together)))[:timed]),
        Text(
            source=windows.source,
            prompts=windows.samples,
            length=windows.sequence_length,
            fingerprint=windows.fingerprint,
        ),
    )


def _windows(source: ModelSource, text: str, length: int, vocabulary: int) -> Calibration:
    try:
        tokenizer = load_tokenizer(source.location, source.trust_remote_code)
    except InputError:
        ids = torch.randint(vocabulary, (_PROMPTS, length), generator=torch.Generator().manual_seed(0))
        return Calibration(ids, NO_TOKENIZER, adds_bos=False)
    require_plain_templates(tokenizer, source.location.source)
    return load_held_out(text, tokenizer, samples=_PROMPTS, sequence_length=length)
