"""The package's checkpoints: ``config.json`` and ``pytorch_model.bin`` in a directory."""

import dataclasses
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import UnsupportedModelError, read_json, write_json_atomically
from shapcut_adapters.mamba_ssm.package import import_mamba_ssm, require_kernels
from shapcut_adapters.shared.pickled_tensors import load_tensors

CONFIG = "config.json"
PICKLED = "pytorch_model.bin"
SAFE = "model.safetensors"

_LAYERS = ("Mamba1", "Mamba2")
_HEAD, _EMBEDDING = "lm_head.weight", "backbone.embedding.weight"


def read_config(directory: Path) -> Any:
    """The package's config object.

    Raises:
        InputError: if the package is missing.
        UnsupportedModelError: if the package cannot build such a language model.
    """
    import_mamba_ssm()
    config_module: Any = import_module("mamba_ssm.models.config_mamba")
    path = directory / CONFIG
    content = read_json(path)
    known = {field.name for field in dataclasses.fields(config_module.MambaConfig)}
    if unknown := sorted(content.keys() - known):
        raise UnsupportedModelError(f"{path} has fields that this mamba-ssm does not know: {unknown}")
    config = config_module.MambaConfig(**content)
    if objection := _objection(config):
        raise UnsupportedModelError(f"{path}: {objection}")
    return config


def _objection(config: Any) -> str:
    """Why a config is unsupported; empty if it is supported."""
    if not isinstance(config.n_layer, int) or config.n_layer < 1:
        return f"n_layer={config.n_layer!r} is not a number of blocks"
    layer = (config.ssm_cfg or {}).get("layer", _LAYERS[0])
    if layer not in _LAYERS:
        return f"ssm_cfg has layer={layer!r}; the package's language model knows {' and '.join(_LAYERS)}"
    if config.attn_layer_idx and not (config.attn_cfg or {}).get("causal"):
        return "attn_cfg lacks causal=true: attention that sees later tokens is no causal language model"
    return ""


def load_model(
    directory: Path, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """The model of a checkpoint, in evaluation mode.

    Args:
        directory: with `CONFIG` and one of `SAFE` (which is preferred) and `PICKLED`.
        device: where the weights go; default the CPU.
        dtype: of the weights but for those that the package keeps in float32; None keeps the stored ones.

    Raises:
        InputError: if the package is missing, or its kernels are and the device is CUDA.
        UnsupportedModelError: if weights and config disagree.
    """
    device = device or torch.device("cpu")
    require_kernels(device)
    config = read_config(directory)
    stored = _read_weights(directory, device)
    if config.n_layer > len(stored):
        raise UnsupportedModelError(
            f"{directory}: {CONFIG} promises {config.n_layer} layers, the weights are {len(stored)} tensors"
        )
    model = _empty_model(config, dtype)
    wanted = model.state_dict()
    if config.tie_embeddings:
        stored = _with_tied_head(directory, stored)
    _require_fitting(directory, stored, wanted)
    if dtype is not None:
        stored = {name: tensor.to(wanted[name].dtype) for name, tensor in stored.items()}
    marks = {name: vars(parameter) for name, parameter in model.named_parameters()}
    model.load_state_dict(stored, assign=True)
    model.tie_weights()  # type: ignore[operator]
    for name, parameter in model.named_parameters():
        vars(parameter).update(marks[name])  # such as no weight decay
    return model.to(device).eval()


def _empty_model(config: Any, dtype: torch.dtype | None) -> nn.Module:
    """A model on the meta device, except rotary embeddings, which hold values outside the checkpoint."""
    package = import_mamba_ssm()
    device = "cpu" if (config.attn_cfg or {}).get("rotary_emb_dim") else "meta"
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = package.MambaLMHeadModel(config, device=device, dtype=dtype)
    return model


def _read_weights(directory: Path, device: torch.device) -> dict[str, Tensor]:
    if (directory / SAFE).is_file():
        from safetensors.torch import load_file  # noqa: PLC0415 - only needed here

        return load_file(directory / SAFE, device=str(device))
    return load_tensors(directory / PICKLED, device)


def _with_tied_head(directory: Path, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resolve tied weights, which may be stored once, or twice with equal values."""
    embedding = stored.get(_EMBEDDING)
    if embedding is None:
        return stored
    if not torch.equal(stored.get(_HEAD, embedding), embedding):
        raise UnsupportedModelError(
            f"the config in {directory} ties {_HEAD} to {_EMBEDDING}, but they differ in its weights; "
            "set tie_embeddings to false"
        )
    return {**stored, _HEAD: embedding}


def _require_fitting(directory: Path, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        raise UnsupportedModelError(
            f"the checkpoint in {directory} does not fit its config in {len(wrong)} weights: {name} has "
            f"shape {shapes.get(name, 'none, it is missing')}, expected {expected.get(name, 'none')}"
        )


def save_model(model: nn.Module, directory: Path) -> None:
    """Write the files that the package's ``from_pretrained`` reads, each atomically."""
    config: Any = model.config
    _write_weights(model, directory / PICKLED)
    write_json_atomically(directory / CONFIG, dataclasses.asdict(config))


def _write_weights(model: nn.Module, path: Path) -> None:
    on_cpu: dict[int, Tensor] = {}
    weights = {
        name: on_cpu.setdefault(tensor.data_ptr(), tensor.detach().cpu())
        for name, tensor in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        torch.save(weights, Path(temporary) / path.name)
        (Path(temporary) / path.name).replace(path)
