"""The checkpoint format of the ``mamba-ssm`` package."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from shapcut.contracts import CheckpointFormat, InputError, Tokenizer, read_json
from shapcut_adapters.mamba_ssm.checkpoint import CONFIG, PICKLED, SAFE, load_model, read_config
from shapcut_adapters.mamba_ssm.package import DISTRIBUTION, require_package

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class MambaSSMFormat(CheckpointFormat):
    """A directory whose ``config.json`` has ``n_layer`` and ``d_model`` but no ``model_type``."""

    name: ClassVar[str] = DISTRIBUTION

    def claims(self, path: Path) -> bool:
        """Whether the directory's config is one of the package's."""
        try:
            config = read_json(path / CONFIG)
        except (InputError, OSError, ValueError):
            return False
        return (
            isinstance(config, dict)
            and {"n_layer", "d_model"} <= config.keys()
            and "model_type" not in config
        )

    def check(self, path: Path) -> None:
        """Refuse a checkpoint that the package cannot read here, or one without weights or tokenizer."""
        require_package()
        read_config(path)
        if not any((path / name).is_file() for name in (SAFE, PICKLED)):
            raise InputError(f"the directory {path} has neither {PICKLED} nor {SAFE}")
        if not any((path / name).is_file() for name in _TOKENIZER_FILES):
            raise InputError(
                f"the directory {path} has no tokenizer: put the tokenizer.json that the model was trained "
                "with into it (for state-spaces' models that of EleutherAI/gpt-neox-20b)"
            )

    def depth(self, path: Path) -> int | None:
        """The config's number of blocks."""
        return depth if isinstance(depth := read_json(path / CONFIG)["n_layer"], int) else None

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[nn.Module, Tokenizer]:
        """The model and the tokenizer in its directory."""
        return load_model(path, device=device, dtype=dtype), _load_tokenizer(path)


def _load_tokenizer(path: Path) -> Any:
    """Load tokenizer.json alone if present; other files need the class named by their config."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415 - seconds to import

    loader: Any = PreTrainedTokenizerFast if (path / _TOKENIZER_FILES[0]).is_file() else AutoTokenizer
    return loader.from_pretrained(path, local_files_only=True)
