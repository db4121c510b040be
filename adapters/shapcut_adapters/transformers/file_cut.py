"""The cut of a checkpoint as a file operation: no number is read, so every format is kept."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.contracts import (
    UnsupportedModelError,
    cut_weights,
    forget_predictors,
    is_predictor,
    predictor_count,
    read_json,
    stored_tensors,
    write_json_atomically,
)
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.renumbering import Renumbering

_STORED_AS, _STORED_DEPTH = "shapcut_stored_as", "shapcut_stored_depth"
"""Attributes of a block and of the stack: a block's number and their number where they were loaded from."""

_NOT_AS_STORED = "shapcut_not_as_stored"
"""Attribute of a stack: what its layers are since they were loaded, if files do not name it so."""

_QUANTIZATION = "quantization_config"
_QUANTIZATION_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
_NUMBERED = re.compile(r"(.+?)\.(\d+)\.")


def note_stored_numbers(decoder: Decoder) -> None:
    """Store each block's index in the checkpoint, and how many there are, for `save_cut`."""
    vars(decoder.blocks).setdefault(_STORED_DEPTH, len(decoder.blocks))
    for index, block in enumerate(decoder.blocks):
        vars(block).setdefault(_STORED_AS, index)


def forbid_file_cut(decoder: Decoder, what: str) -> None:
    """Note that layers are no longer as in the files: they have lost experts, or have others' MLPs."""
    vars(decoder.blocks)[_NOT_AS_STORED] = what


def is_cut_as_files(model: nn.Module) -> bool:
    """Whether a model must be saved by `save_cut`, because its checkpoint is quantized.

    Its weights in memory are repacked or dequantized, and transformers cannot write them back as they were.
    """
    name = str(getattr(model, "name_or_path", ""))
    if not name:
        return False
    try:
        config = _read(_source(model) / "config.json")
    except UnsupportedModelError:
        return getattr(model.config, _QUANTIZATION, None) is not None
    return any(_QUANTIZATION in each for each in (config, config.get("text_config") or {}))


def save_without_predictors(model: Any, directory: Path) -> None:
    """Save a model from memory, where it has no layers that predict further tokens."""
    model.save_pretrained(directory)
    config = _read(directory / "config.json")
    if forget_predictors(config):
        write_json_atomically(directory / "config.json", config)


def files_objection(decoder: Decoder, source: Path) -> str:
    """Why a checkpoint cannot be cut as files; empty if it can."""
    family = type(decoder.model).__name__
    if (what := vars(decoder.blocks).get(_NOT_AS_STORED)) is not None:
        return f"the layers of the {family} {what}"
    if decoder.rebuild is not None:
        return f"a {family} must be rebuilt for a removal"
    if decoder.family.entrance:
        return f"the first layer of a {family} has weights that must move to the new first one"
    found = _stored_indices(decoder, stored_tensors(source))
    depth = vars(decoder.blocks).get(_STORED_DEPTH, len(decoder.blocks))
    if not found:
        return f"no tensors in {source} are named as the layers of a {family}"
    for stack, indices in found.items():
        extra = sorted(indices.difference(range(depth)))
        if set(range(depth)) - indices or len(extra) > predictor_count(decoder.model.config):
            return f"{source} numbers the layers {stack} otherwise than its config"
    return ""


def save_cut(decoder: Decoder, directory: Path, source: Path | None = None) -> None:
    """Write the checkpoint that a model was loaded from, without the removed blocks.

    Args:
        decoder: the model, cut.
        directory: where to write.
        source: the checkpoint; None: found by the model's name.

    Raises:
        UnsupportedModelError: if that checkpoint is no longer available, or cannot be cut as files.
    """
    source = source or _source(decoder.model)
    if objection := files_objection(decoder, source):
        raise UnsupportedModelError(f"{source} cannot be cut as files: {objection}")
    kept = tuple(vars(block).get(_STORED_AS, index) for index, block in enumerate(decoder.blocks))
    depth = vars(decoder.blocks).get(_STORED_DEPTH, len(decoder.blocks))
    stacks = {decoder.stack, *_stored_indices(decoder, stored_tensors(source))}
    renumbering = Renumbering(sorted(stacks), Cut(depth, kept))
    directory.mkdir(parents=True, exist_ok=True)
    cut_weights(source, directory, renumbering.name, renumbering.metadata)
    _write_configs(decoder.model, source, directory, renumbering)


def _write_configs(model: Any, source: Path, directory: Path, renumbering: Renumbering) -> None:
    """Write the model's config with the quantization and the architecture as the source names them."""
    original = _read(source / "config.json")
    model.config.save_pretrained(directory)
    written = _read(directory / "config.json")
    if "architectures" in original and len(original["architectures"] or ()) == 1:
        written["architectures"] = original["architectures"]
    for old, new in ((original, written), (original.get("text_config"), written.get("text_config"))):
        if isinstance(old, dict) and isinstance(new, dict):
            new.pop(_QUANTIZATION, None)
            if _QUANTIZATION in old:
                new[_QUANTIZATION] = renumbering.data(old[_QUANTIZATION])
    if not any(is_predictor(name, model.config) for name in stored_tensors(directory)):
        forget_predictors(written)
    write_json_atomically(directory / "config.json", written)
    if model.can_generate() and not (source / "generation_config.json").is_file():
        model.generation_config.save_pretrained(directory)
    for name in _QUANTIZATION_FILES:
        if (source / name).is_file():
            write_json_atomically(directory / name, renumbering.data(_read(source / name)))


def _stored_indices(decoder: Decoder, names: Iterable[str]) -> dict[str, set[int]]:
    """The paths that the layers have in the files, each with the indices under it."""
    indices: dict[str, set[int]] = {}
    examples: dict[str, str] = {}
    for name in names:
        if (found := _NUMBERED.match(name)) is not None:
            indices.setdefault(found[1], set()).add(int(found[2]))
            examples.setdefault(found[1], name)
    return {path: indices[path] for path, name in examples.items() if _is_in_stack(decoder, name)}


def _is_in_stack(decoder: Decoder, name: str) -> bool:
    """Whether transformers loads a stored tensor into the stack."""
    from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415 - slow to import

    model: Any = decoder.model
    for transform in get_model_conversion_mapping(model):
        name, _ = transform.rename_source_key(name)
    base = f"{model.base_model_prefix}."
    return any(each.startswith(f"{decoder.stack}.") for each in (name, base + name, name.removeprefix(base)))


def _source(model: Any) -> Path:
    """The directory of the checkpoint that a model was loaded from."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 - slow to import

    name, commit = model.name_or_path, getattr(model.config, "_commit_hash", None)
    message = f"a quantized model is saved from its original files, but {name!r} is missing"
    try:
        found = cached_file(name, "config.json", local_files_only=True, revision=commit)
    except OSError as error:
        raise UnsupportedModelError(message) from error
    if found is None:  # a directory without one: that of a GGUF file
        raise UnsupportedModelError(message)
    return Path(found).parent


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file)
    return content
