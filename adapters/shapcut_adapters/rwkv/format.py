"""RWKV models in .pth files."""

from pathlib import Path
from typing import ClassVar

import torch

from shapcut.contracts import CheckpointFormat, InputError, Tokenizer
from shapcut_adapters.rwkv.functions import package_directory
from shapcut_adapters.rwkv.model import RwkvModel
from shapcut_adapters.rwkv.tokenizer import check_tokenizer, read_tokenizer
from shapcut_adapters.rwkv.weights import layer_count, read_weights, version_of


class RwkvPth(CheckpointFormat):
    """A .pth file, or a directory with one and no config.json; `check` refuses several."""

    name: ClassVar[str] = "rwkv-pth"

    def claims(self, path: Path) -> bool:
        """Judged by names alone."""
        if path.is_dir():
            return not (path / "config.json").exists() and bool(_weight_files(path))
        return path.suffix == ".pth"

    def check(self, path: Path) -> None:
        """Require the package, and weight names of a known version."""
        package_directory()
        file = weight_file(path)
        weights = read_weights(file, names_only=True)
        version_of(weights, str(file))
        check_tokenizer(file.parent, weights["emb.weight"].shape[0])

    def depth(self, path: Path) -> int:
        """The number of blocks, from the weight names."""
        return layer_count(read_weights(weight_file(path), names_only=True))

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[RwkvModel, Tokenizer]:
        """The model over the raw weights, with the tokenizer beside them or the package's own."""
        file = weight_file(path)
        model = read_model(file).to(device, dtype)
        return model, read_tokenizer(file.parent, model.unembedding.shape[0])


def weight_file(path: Path) -> Path:
    """The .pth file itself, or the only one in a directory.

    Raises:
        InputError: if there is none, or several.
    """
    if not path.is_dir():
        return path
    files = _weight_files(path)
    if len(files) != 1:
        raise InputError(f"{path} holds {len(files)} .pth files; name the one that is meant")
    return files[0]


def read_model(file: Path) -> RwkvModel:
    """The model of a .pth file, in evaluation mode.

    Raises:
        InputError: if it holds anything else.
    """
    return RwkvModel(read_weights(file), str(file)).eval()


def _weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.pth"))
