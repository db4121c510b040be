"""Tokenizers of RWKV models: the file beside the weights, or the package's own vocabulary."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from shapcut.contracts import InputError, Tokenizer
from shapcut_adapters.rwkv.functions import package_directory

_FILE = "tokenizer.json"
_WORLD_FILE = "rwkv_vocab_v20230424.txt"
_WORLD_ROWS = 65536


class WorldTokenizer:
    """The package's tokenizer for "World" models, called like a transformers tokenizer; adds no BOS."""

    bos_token_id = None

    def __init__(self) -> None:
        from rwkv.rwkv_tokenizer import TRIE_TOKENIZER  # noqa: PLC0415 - optional

        self._trie: Any = TRIE_TOKENIZER(str(package_directory() / _WORLD_FILE))

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:  # noqa: ARG002
        """The text's token ids; there are no special tokens to add."""
        return {"input_ids": self._trie.encode(text)}

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids."""
        return str(self._trie.decode(token_ids))

    def save_pretrained(self, save_directory: Path) -> None:
        """Write the vocabulary beside the weights, for readers without the package."""
        shutil.copyfile(package_directory() / _WORLD_FILE, save_directory / _WORLD_FILE)


def check_tokenizer(directory: Path, vocabulary: int) -> None:
    """Require a tokenizer for the weights in a directory.

    Args:
        directory: of the weights.
        vocabulary: rows of the embedding.

    Raises:
        InputError: if there is none.
    """
    if not (directory / _FILE).is_file() and vocabulary != _WORLD_ROWS:
        raise InputError(
            f"there is no {_FILE} in {directory}, and an embedding of {vocabulary} rows is not that of the "
            f"World vocabulary ({_WORLD_ROWS}); put the model's {_FILE} beside the weights"
        )


def read_tokenizer(directory: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer for the weights in a directory.

    Raises:
        InputError: if there is none.
    """
    check_tokenizer(directory, vocabulary)
    if not (directory / _FILE).is_file():
        return WorldTokenizer()
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    reader: Any = PreTrainedTokenizerFast
    return cast("Tokenizer", reader.from_pretrained(directory, local_files_only=True))
