"""Checks of untrusted checkpoints before a library follows them: file names and weights."""

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import nn

from shapcut.support.errors import InputError
from shapcut.support.plain_json import LARGEST_JSON, read_json

_RECOMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.(masked_)?bias|position_ids)$")
"""Buffers that old versions of transformers stored and that every version computes itself."""

_METADATA = {".json", ".jinja", ".txt", ".model"}
_COUNT = re.compile(r"(^n|num|number)_?(of_)?(\w+_)?(layers?|blocks?|experts?|heads?)$|^depth$")
_LARGEST_COUNT = 2**16
"""More layers, heads or experts than any model has; each may become a module."""

_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def is_plain_name(name: object) -> bool:
    """Whether a name is a plain file name, without a directory, on any system."""
    if not isinstance(name, str) or name in {"", ".", ".."} or "\0" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def require_regular_files(directory: Path) -> None:
    """Refuse a checkpoint with a device, a FIFO or a socket in it, or a JSON file too large to be read.

    Raises:
        InputError: naming the first one.
    """
    for path in sorted(directory.iterdir()):
        if not path.exists():
            continue  # a dangling link
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(f"{path} is a device, a FIFO or a socket; remove it")
        if path.suffix in _METADATA and stat.S_ISREG(status.st_mode) and status.st_size > LARGEST_JSON:
            raise InputError(
                f"{path} has {status.st_size:,} bytes, more than the {LARGEST_JSON:,} that are read; "
                "take another copy"
            )


def require_plain_shards(index: Path) -> None:
    """Check the index of a checkpoint in several files.

    Raises:
        InputError: if it is damaged or names a file outside its own directory.
    """
    try:
        names = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index} is damaged: it has no weight_map from weights to files ({type(error).__name__})"
        ) from error
    for name in sorted(names, key=repr):
        if not is_plain_name(name):
            raise InputError(f"{index} names the weight file {name!r}, which is outside its directory")
        if not name.endswith(".safetensors"):
            raise InputError(f"{index} names the weight file {name!r}; only .safetensors files are opened")


def require_no_adapter(directory: Path) -> None:
    """Refuse a checkpoint with a peft adapter, which would be loaded into the model.

    Raises:
        InputError: with the remedy.
    """
    if (directory / "adapter_config.json").is_file():
        beside = (directory / "config.json").is_file()
        base = "the weights beside it" if beside else _base_of(directory)
        raise InputError(
            f"{directory} has an adapter_config.json: merge the adapter into {base} "
            f"(peft's merge_and_unload) and save them{', or remove the file' if beside else ''}"
        )


def _base_of(directory: Path) -> str:
    """The model that a peft adapter was made for, as far as it says so."""
    try:
        content = read_json(directory / "adapter_config.json")
        name = content["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        name = None
    return f"the weights of {name!r}" if isinstance(name, str) and name else "the weights of its base model"


def require_plain_config(config: Mapping[str, Any], source: str, *, trust_remote_code: bool) -> None:
    """Refuse a config that leads to other files than its own checkpoint's.

    Raises:
        InputError: naming the field.
    """
    if "transformers_weights" in config:
        raise InputError(
            f"the config of {source} names its weights itself (transformers_weights: "
            f"{config['transformers_weights']!r}); remove the field"
        )
    for field, value in _fields(config):
        if _COUNT.search(field) and isinstance(value, int | float) and not value <= _LARGEST_COUNT:
            raise InputError(
                f"the config of {source} promises {value} ({field}), more than {_LARGEST_COUNT}; "
                "take another copy"
            )
        kernel = field.endswith("attn_implementation") and "/" in str(value)
        if kernel and not trust_remote_code:
            raise InputError(
                f"the config of {source} asks for code from the hub ({field}: {value!r}); "
                "remove the field, or pass --trust-remote-code if you trust it"
            )


def _fields(config: Mapping[str, Any], depth: int = 8) -> Iterator[tuple[str, Any]]:
    """The fields of a config and of the configs in it."""
    for field, value in config.items():
        yield str(field), value
        if isinstance(value, Mapping) and depth:
            yield from _fields(value, depth - 1)


def require_plain_templates(tokenizer: Any, source: str) -> None:
    """Refuse chat templates whose names would escape the checkpoint's directory.

    Raises:
        InputError: with the name.
    """
    templates = getattr(tokenizer, "chat_template", None)
    for name in templates if isinstance(templates, dict) else ():
        if not is_plain_name(name):
            raise InputError(
                f"the tokenizer of {source} has a chat template with the name {name!r}, which is not a "
                "plain file name; rename it"
            )


def require_no_lost_weights(unexpected: Iterable[str], source: str, architecture: str) -> None:
    """Refuse a checkpoint with weights that its model does not have: a pruned copy would lack them.

    Raises:
        InputError: naming the first one.
    """
    lost = sorted(name for name in unexpected if not _RECOMPUTED.search(name))
    if lost:
        raise InputError(
            f"the files of {source} hold {len(lost)} weights that the {architecture} of its config does not "
            f"have, {lost[0]} among them; they would be lost: correct the config, or remove them"
        )


def require_finite_weights(model: nn.Module, source: str) -> None:
    """Refuse NaN and infinite weights: a single one can make every value NaN.

    Raises:
        InputError: with the first such weight.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.dtype not in _CHECKED or hasattr(weight, "__tensor_flatten__"):
            continue
        if weight.numel() and not all(map(torch.isfinite, torch.aminmax(weight.detach()))):
            raise InputError(
                f"the weight {name} of {source} has NaN or infinite elements: the file is damaged, or its "
                "training failed; take another copy of the checkpoint"
            )
