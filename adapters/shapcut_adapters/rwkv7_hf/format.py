"""RWKV-7 checkpoints of the ``rwkv7-hf`` package, read without running their bundled code."""

import importlib.util
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import safe_open
from torch import nn

from shapcut.contracts import CheckpointFormat, InputError, Tokenizer, UnsupportedModelError, read_json

MODEL_TYPE = "rwkv7"

_VOCABULARY = "rwkv_vocab_v20230424.txt"
_TOKENIZER = "tokenizer.json"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class Rwkv7Hf(CheckpointFormat):
    """A directory with model type ``rwkv7``, read by the installed package, not by the directory's code."""

    name: ClassVar[str] = "rwkv7-hf"

    def claims(self, path: Path) -> bool:
        """Judged by the config's ``model_type``."""
        return _config(path).get("model_type") == MODEL_TYPE

    def check(self, path: Path) -> None:
        """Require the package, safetensors weights and a tokenizer."""
        if importlib.util.find_spec("rwkv7_hf") is None:
            raise InputError(f"{path} needs the rwkv7-hf package: pip install 'shapcut[rwkv7-hf]'")
        if not any((path / name).is_file() for name in _WEIGHTS):
            raise InputError(f"{path} has no {_WEIGHTS[0]}, and pickled weights are not opened")
        if not any((path / name).is_file() for name in (_VOCABULARY, _TOKENIZER)):
            raise InputError(f"{path} has neither {_VOCABULARY} nor {_TOKENIZER}: put the tokenizer there")

    def depth(self, path: Path) -> int | None:
        """The config's number of layers."""
        depth = _config(path).get("num_hidden_layers")
        return depth if isinstance(depth, int) else None

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[nn.Module, Tokenizer]:
        """The package's model and its tokenizer."""
        return read_rwkv7(path, dtype).to(device), _read_tokenizer(path)


def read_rwkv7(directory: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a directory in evaluation mode, by the package's own class.

    Args:
        directory: a checkpoint.
        dtype: of the weights; None keeps the checkpoint's own.

    Raises:
        UnsupportedModelError: if weights are missing or unexpected.
    """
    model, info = register_rwkv7().from_pretrained(
        directory,
        output_loading_info=True,
        local_files_only=True,
        use_safetensors=True,
        dtype=dtype or "auto",
    )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
    if wrong:
        raise UnsupportedModelError(f"the checkpoint in {directory} does not fit its config: {wrong}")
    if dtype is None:
        _store_as_read(model, directory)
    return cast("nn.Module", model.eval())


def _store_as_read(model: nn.Module, directory: Path) -> None:
    """Restore the file's dtypes: loading widens decay biases to fp32 beside 16-bit weights.

    They are computed with in fp32 in either case; a checkpoint should not grow by being loaded and saved.
    """
    weights = dict(model.named_parameters())
    if len({weight.dtype for weight in weights.values()}) == 1:
        return
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            for name in weights.keys() & set(stored.keys()):
                dtype = _DTYPES.get(stored.get_slice(name).get_dtype(), weights[name].dtype)
                weights[name].data = weights[name].data.to(dtype)


def register_rwkv7() -> Any:
    """The package's model class, registered with transformers' auto classes."""
    from rwkv7_hf import RWKV7Config, RWKV7ForCausalLM  # noqa: PLC0415 - optional
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    AutoConfig.register(MODEL_TYPE, RWKV7Config, exist_ok=True)
    AutoModelForCausalLM.register(RWKV7Config, RWKV7ForCausalLM, exist_ok=True)
    return RWKV7ForCausalLM


def _read_tokenizer(directory: Path) -> Tokenizer:
    from rwkv7_hf import RWKV7Tokenizer  # noqa: PLC0415 - optional
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    RWKV7Tokenizer.register_for_auto_class("AutoTokenizer")  # saved as the models are, with its code
    fast = (directory / _TOKENIZER).is_file()
    reader: Any = PreTrainedTokenizerFast if fast else RWKV7Tokenizer
    return cast("Tokenizer", reader.from_pretrained(directory, local_files_only=True))


def _config(path: Path) -> dict[str, Any]:
    """The content of a directory's config.json; empty if there is none or it is damaged."""
    try:
        content = read_json(path / "config.json")
    except (InputError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
