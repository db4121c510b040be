"""Load a model and its tokenizer from a source."""

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from shapcut.models.checkpoint_format import CheckpointFormat, Tokenizer
from shapcut.models.gguf import dense_weights
from shapcut.models.gguf_reader import parsed_once
from shapcut.models.location import Location
from shapcut.models.multimodal import TEXT_KEYS, auto_class, is_multimodal
from shapcut.models.placement import Offload, check_dtype
from shapcut.models.predictors import is_predictor
from shapcut.models.quantization import is_quantized, quantization_method, require_packages
from shapcut.models.source import ModelSource, read_config
from shapcut.models.untrusted import (
    require_finite_weights,
    require_no_lost_weights,
    require_plain_templates,
)
from shapcut.support.allocator import return_freed_memory
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.quiet import one_line, quiet_libraries, without_stderr

_OF_FILES = (OSError, EOFError, SafetensorError)
"""Errors that an incomplete file may cause."""

_LOG = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """A model in evaluation mode, without gradients, and its tokenizer."""

    model: nn.Module
    tokenizer: Any


def load(source: ModelSource) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    The weights of a GGUF file are dequantized.

    Raises:
        InputError: if the source, the device or the dtype is not usable.
    """
    location, offload = source.location, source.offload
    device, dtype = choose_device(source.device), choose_dtype(source.dtype)
    if offload != "off":
        if location.format is not None or location.gguf_file is not None:
            raise InputError(
                f"--offload {offload} needs a safetensors checkpoint of transformers, not {location.source}"
            )
        return_freed_memory()
    if location.format is not None:
        model, tokenizer = _load_foreign(location.format, location, device, dtype)
    else:
        model, tokenizer = _load_from_transformers(source, device, dtype)
    if is_quantized(model):
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else a line for each product
    require_finite_weights(model, location.source)
    require_plain_templates(tokenizer, location.source)
    model.requires_grad_(requires_grad=False)
    model = model.eval() if offload != "off" or is_quantized(model) else model.eval().to(device)
    _LOG.debug("%s: a %s from %s", location.source, type(model).__name__, location.path)
    return LoadedModel(model, tokenizer)


def _load_from_transformers(
    source: ModelSource, device: torch.device, dtype: torch.dtype | None
) -> tuple[nn.Module, Any]:
    location, trust = source.location, source.trust_remote_code
    with quiet_libraries(), parsed_once(location.gguf_file is not None):
        config = read_config(location, trust)
        if location.gguf_file is None and (method := quantization_method(config)):
            require_packages(location.source, method)
        placed = device_map(config, device, source.offload, trust)
        model = _load_model(location, config, dtype, trust, placed)
        return model, load_tokenizer(location, trust)


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are loaded only on use."""
    return any(parameter.is_meta for parameter in model.parameters())


def weight_devices(model: nn.Module) -> tuple[torch.device, ...]:
    """The devices that hold a model's weights, the first weight's first; offloaded weights are on none."""
    return tuple(dict.fromkeys(weight.device for weight in model.parameters() if not weight.is_meta))


def copied_as(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model in another dtype.

    As ``copy.deepcopy(model).to(dtype)``, but each weight is converted while it is copied, so that memory
    never holds a second copy in the model's own dtype.
    """
    tensors = [*model.parameters(), *model.buffers()]
    known: dict[int, Any] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype != dtype and id(tensor) not in known:
            found = tensor.detach().to(dtype)
            is_weight = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(found, tensor.requires_grad) if is_weight else found
    return copy.deepcopy(model, known).to(dtype)


class Residence:
    """A model that may leave its GPU for main memory, and returns when it is needed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        """The model, wherever its weights are now."""
        self._left: torch.device | None = None

    def leave(self) -> None:
        """Move the weights to main memory, unless they are spread, managed by accelerate, or quantized."""
        devices = weight_devices(self.model)
        movable = not (
            is_offloaded(self.model) or is_quantized(self.model) or hasattr(self.model, "_hf_hook")
        )
        if self._left is None and movable and len(devices) == 1 and devices[0].type == "cuda":
            self._left = devices[0]
            self.model.to("cpu")
            torch.cuda.empty_cache()  # else the memory stays with this process

    def present(self) -> nn.Module:
        """The model on its own device."""
        if self._left is not None:
            device, self._left = self._left, None
            self.model.to(device)
        return self.model


def device_map(config: Any, device: torch.device, offload: Offload, trust_remote_code: bool) -> Any:
    """Accelerate's device map for a model, or None if it is not needed.

    Blocks are the classes that transformers declares not to be split among devices.
    """
    if offload == "off":
        return {"": device} if quantization_method(config) else None
    if offload == "auto":
        return "auto"
    model: Any = model_without_weights(config, trust_remote_code)
    blocks = [
        name
        for name, part in model.named_modules()
        if type(part).__name__ in (model._no_split_modules or ())  # noqa: SLF001
    ]
    if not blocks:
        raise InputError(f"--offload disk: {type(model).__name__} does not say what its blocks are; use auto")
    return dict.fromkeys(blocks, "disk") | dict.fromkeys(_outside(model, blocks), str(device))


def model_without_weights(
    config: Any, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> nn.Module:
    """The model of a config on the meta device; dtype None is the config's own."""
    builder = auto_class(config)
    own = {} if dtype is None else {"dtype": dtype}
    with torch.device("meta"):
        model: nn.Module = builder.from_config(config, trust_remote_code=trust_remote_code, **own)
    return model


def _outside(model: nn.Module, blocks: Sequence[str], prefix: str = "") -> list[str]:
    """Names of the largest modules without any of the blocks."""
    found = []
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if any(block.startswith(f"{path}.") for block in blocks):
            found += _outside(child, blocks, f"{path}.")
        elif path not in blocks:
            found.append(path)
    return found


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA if available, else the CPU.

    Raises:
        InputError: if the device is unusable.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used: {one_line(error)}") from error
    return device


def choose_dtype(name: str) -> torch.dtype | None:
    """The dtype of a name; None for ``auto``, the checkpoint's own.

    Raises:
        InputError: if models cannot be loaded in that dtype.
    """
    check_dtype(name)
    return None if name == "auto" else getattr(torch, name)


def _load_foreign(
    found: CheckpointFormat, location: Location, device: torch.device, dtype: torch.dtype | None
) -> tuple[nn.Module, Tokenizer]:
    """Load a path in a format other than transformers' own; errors of any type become one line."""
    try:
        with quiet_libraries():
            return found.load(Path(location.path), device=device, dtype=dtype)
    except ShapcutError:
        raise
    except Exception as error:
        raise InputError(f"cannot load {location.source} as {found.name}: {one_line(error)}") from error


def _load_model(
    location: Location, config: Any, dtype: torch.dtype | None, trust_remote_code: bool, placed: Any
) -> nn.Module:
    loader = auto_class(config)
    arguments = location.arguments() | _weight_arguments(location, dtype)
    try:
        with _no_gguf_bar(location):
            model, info = loader.from_pretrained(
                location.path,
                config=config,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                device_map=placed,
                **arguments,
            )
    except Exception as error:
        hint = "; is the copy complete?" if isinstance(error, _OF_FILES) else ""
        if isinstance(error, ImportError) and is_multimodal(config):
            hint = "; or prune its language model alone with --text-only"
        raise InputError(f"cannot load the weights of {location.source}: {one_line(error)}{hint}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"the checkpoint {location.source} lacks {len(missing)} weights of its own config, "
            f"{missing[0]} among them; is it a {type(model).__name__}?"
        )
    if location.text_only:
        model._weight_conversions = None  # noqa: SLF001 - else saving would give the whole model's names back
        return model  # type: ignore[no-any-return]
    if location.gguf_file is None:
        unexpected = [name for name in info["unexpected_keys"] if not is_predictor(name, config)]
        require_no_lost_weights(unexpected, location.source, type(model).__name__)
    return model  # type: ignore[no-any-return]


def _no_gguf_bar(location: Location) -> AbstractContextManager[None]:
    return nullcontext() if location.gguf_file is None else without_stderr()


def _weight_arguments(location: Location, dtype: torch.dtype | None) -> dict[str, Any]:
    """Arguments for reading weights: never from pickles; GGUF weights dense, by default in fp32."""
    if location.gguf_file is None:
        location.require_safetensors()
        names = {"key_mapping": TEXT_KEYS} if location.text_only else {}
        return {"use_safetensors": True, "dtype": dtype or "auto", **names}
    return dense_weights(dtype)


def load_tokenizer(location: Location, trust_remote_code: bool) -> Any:
    """The tokenizer of a checkpoint of transformers or of a GGUF file.

    Raises:
        InputError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - as above

    loader: Any = AutoTokenizer
    try:
        with _no_gguf_bar(location):
            return loader.from_pretrained(
                location.path, trust_remote_code=trust_remote_code, **location.arguments()
            )
    except Exception as error:
        raise InputError(
            f"cannot load the tokenizer of {location.source}: {one_line(error)}; put the model's own "
            "tokenizer.json beside its weights"
        ) from error
