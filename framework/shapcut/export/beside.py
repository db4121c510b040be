"""The files beside a checkpoint's weights: tokenizer, license, preprocessors, the author's own code."""

import shutil
from pathlib import Path

from shapcut.models.stored_tensors import WEIGHT_SUFFIXES

_WEIGHTS = (*WEIGHT_SUFFIXES, ".index.json")
_OWN = ("config.json", "readme.md", "plan.json", "recipe.yaml", "shapcut-demo.json")
_OF_WEIGHTS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "adapter_config.json")
"""Files about the weights; whoever writes those writes them."""

_FOLDERS = ("additional_chat_templates",)


def copy_beside(source: Path, directory: Path) -> list[str]:
    """Copy what lies beside the weights of ``source``; files that ``directory`` has are kept.

    Hidden files are left, and links out of the checkpoint (the hub's cache links to its own blobs).

    Returns:
        The names of the copied files.
    """
    copied = []
    for file in sorted(source.iterdir()):
        target = directory / file.name
        if file.is_dir() and file.name in _FOLDERS:
            target.mkdir(exist_ok=True)
            copied += [f"{file.name}/{name}" for name in copy_beside(file, target)]
        elif _belongs(file) and not target.exists():
            shutil.copyfile(file, target)
            copied.append(file.name)
    return copied


def _belongs(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith(".") or name.endswith(_WEIGHTS) or name in _OWN or name in _OF_WEIGHTS:
        return False
    places = (file.parent.resolve(), file.parent.resolve().parent.parent / "blobs")
    return file.is_file() and file.resolve().parent in places
