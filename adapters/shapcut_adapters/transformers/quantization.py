"""Removal from quantized models: renumber the quantization config, cut checkpoints as files."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from shapcut.contracts import UnsupportedModelError, quantization_method, write_json_atomically
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families.rules import Cut

_REPACKED = ("gptq", "compressed-tensors")
"""Methods whose models are always loaded from quantized checkpoints."""

_STORED_AS = "shapcut_stored_as"
"""Attribute of a block: its number in the checkpoint that its model was loaded from."""

_REGULAR_EXPRESSION = re.compile(r"^(re:|[+-]:)|[\\*^$|()\[\]]")


def quantization_objection(decoder: Decoder, cut: Cut) -> str:
    """Why blocks cannot be removed from a quantized model; empty if they can."""
    if not (method := quantization_method(decoder.config)):
        return ""
    if decoder.family.rebuild is not None:
        return f"{type(decoder.model).__name__} must be rebuilt for a removal, impossible when quantized"
    changed = {name for name in _block_names(decoder) if _renumbered(name, decoder.family.stack, cut) != name}
    for text in _texts(_plain(getattr(decoder.config, "quantization_config", {}))):
        if _REGULAR_EXPRESSION.search(text) and re.search(r"\d", text) and _selects(text, changed):
            return (
                f"the {method} config selects layers by the pattern {text!r}, which cannot follow renumbering"
            )
    return ""


def note_stored_numbers(decoder: Decoder) -> None:
    """Store each block's index in the checkpoint, for `save_cut`."""
    for index, block in enumerate(decoder.blocks):
        vars(block).setdefault(_STORED_AS, index)


def renumber_quantization(decoder: Decoder, cut: Cut) -> None:
    """Renumber the module names in the quantization config after the kept blocks."""
    whole: Any = decoder.config
    config = whole.quantization_config
    stack = decoder.family.stack
    if isinstance(config, dict):
        whole.quantization_config = _followed(config, stack, cut)
        return
    for name, value in list(vars(config).items()):
        if isinstance(value, (dict, list, tuple)):
            setattr(config, name, _followed(value, stack, cut))


def is_cut_as_files(model: nn.Module) -> bool:
    """Whether a model must be saved by `save_cut`, because it was loaded from a quantized checkpoint.

    Its weights in memory are often repacked, and transformers cannot write them back.
    """
    if not (method := quantization_method(model.config)):
        return False
    if method in _REPACKED:
        return True
    file = Path(str(getattr(model, "name_or_path", ""))) / "config.json"
    return not file.is_file() or "quantization_config" in json.loads(file.read_text(encoding="utf-8"))


def save_cut(decoder: Decoder, directory: Path) -> None:
    """Write the checkpoint that a model was loaded from, without the removed blocks.

    Raises:
        UnsupportedModelError: if that checkpoint is no longer available.
    """
    model: Any = decoder.model
    source = _source(model)
    kept = tuple(vars(block).get(_STORED_AS, index) for index, block in enumerate(decoder.blocks))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    cut = Cut(config[decoder.family.depth_field], kept)
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(directory)
    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    written["quantization_config"] = _followed(config["quantization_config"], decoder.family.stack, cut)
    written["architectures"] = config.get("architectures")
    write_json_atomically(directory / "config.json", written)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)
    _write_tensors(source, directory, decoder.family.stack, cut)


def _write_tensors(source: Path, directory: Path, stack: str, cut: Cut) -> None:
    """Write the remaining tensors under their new names, file by file."""
    places: dict[str, str] = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            metadata = _followed_metadata(stored.metadata() or {}, stack, cut)
            names = {name: _renumbered(name, stack, cut) for name in stored.keys()}  # noqa: SIM118
            tensors = {new: stored.get_tensor(old) for old, new in names.items() if new is not None}
        if tensors:
            save_file(tensors, directory / file.name, metadata)
            places |= dict.fromkeys(tensors, file.name)
    if len(set(places.values())) > 1:
        index = {"metadata": {}, "weight_map": places}
        write_json_atomically(directory / "model.safetensors.index.json", index)


def _followed_metadata(metadata: Mapping[str, str], stack: str, cut: Cut) -> dict[str, str]:
    """A file's metadata after the cut; torchao describes tensors there, by name and in a list of names."""
    followed: dict[str, str] = _followed(metadata, stack, cut)
    for key, text in followed.items():
        if text.startswith("["):
            followed[key] = json.dumps(_followed(json.loads(text), stack, cut))
    return followed


def _source(model: Any) -> Path:
    """The directory of the checkpoint that a model was loaded from."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 - slow to import

    try:
        return Path(str(cached_file(model.name_or_path, "config.json", local_files_only=True))).parent
    except OSError as error:
        raise UnsupportedModelError(
            f"a quantized model is saved from its original files, but {model.name_or_path!r} is missing"
        ) from error


def _renumbered(name: str, stack: str, cut: Cut) -> str | None:
    """A module's or tensor's name after the cut, or None if it is removed."""
    found = re.match(rf"{re.escape(stack)}\.(\d+)(?=\.|$)", name)
    if found is None:
        return name
    index = int(found[1])
    return f"{stack}.{cut.kept.index(index)}{name[found.end() :]}" if index in cut.kept else None


def _followed(value: Any, stack: str, cut: Cut) -> Any:
    """Data with its module names renumbered and removed entries dropped."""
    if isinstance(value, str):
        return _renumbered(value, stack, cut)
    if isinstance(value, Mapping):
        pairs = ((_followed(key, stack, cut), _followed(item, stack, cut)) for key, item in value.items())
        return {key: item for key, item in pairs if key is not None}
    if isinstance(value, (list, tuple)):
        followed = [(item, _followed(item, stack, cut)) for item in value]
        return type(value)(new for old, new in followed if new is not None or old is None)
    return value


def _plain(config: Any) -> Any:
    return config if isinstance(config, dict) else config.to_dict()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _selects(text: str, names: Collection[str]) -> bool:
    """Whether a regular expression matches any name."""
    try:
        pattern = re.compile(re.sub(r"^(re:|[+-]:)", "", text))
    except re.error:
        return False
    return any(pattern.match(name) for name in names)


def _block_names(decoder: Decoder) -> list[str]:
    prefix = f"{decoder.family.stack}."
    return [name for name, _ in decoder.model.named_modules() if name.startswith(prefix)]
