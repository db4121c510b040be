"""How a model is loaded, and what is known of it before any weight is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapcut.models.checkpoint_format import CheckpointFormat
from shapcut.models.gguf_header import GGUFHeader, read_gguf_header
from shapcut.models.gguf_reader import parsed_once, reads_split_models
from shapcut.models.location import Location, locate
from shapcut.models.multimodal import is_multimodal
from shapcut.models.placement import Offload, check_dtype
from shapcut.models.quantization import quantization_method, require_packages
from shapcut.models.untrusted import require_plain_config
from shapcut.support.errors import InputError
from shapcut.support.quiet import one_line, quiet_libraries


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Facts about a model, known before its weights are read.

    Attributes:
        depth: number of layers, or None if only the weights tell.
        max_length: longest sequence it takes, or None if unlimited.
        quantization: its quantization method, or None.
    """

    depth: int | None
    max_length: int | None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found, and how to load it.

    Attributes:
        location: where it is read from.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (the checkpoint's own), ``float32``, ``bfloat16`` or ``float16``.
        trust_remote_code: whether Python code that comes with the checkpoint may run.
        offload: ``auto`` lets accelerate place weights on devices, in memory and on disk; ``disk`` leaves
            every block in its safetensors file until it is used.
    """

    location: Location
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    offload: Offload = "off"

    @classmethod
    def find(
        cls,
        name: str,
        formats: Sequence[CheckpointFormat] = (),
        *,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        offload: Offload = "off",
    ) -> "ModelSource":
        """Find a model by name; see `locate`."""
        return cls(locate(name, formats), device, dtype, trust_remote_code, offload)


def inspect_source(source: ModelSource) -> SourceFacts:
    """Check a model without reading its weights.

    Raises:
        InputError: if its config is damaged, it is not a causal language model, it needs code that comes
            with it, or the dtype is not supported.
    """
    check_dtype(source.dtype)
    location = source.location
    if location.format is not None:
        return SourceFacts(location.format.depth(Path(location.path)), max_length=None)
    whole = read_config(location, source.trust_remote_code)
    method = quantization_method(whole) if location.gguf_file is None else None
    if method is not None:
        require_packages(location.source, method)
    config = whole.get_text_config()
    return SourceFacts(
        getattr(config, "num_hidden_layers", None), getattr(config, "max_position_embeddings", None), method
    )


def read_config(location: Location, trust_remote_code: bool) -> Any:
    """The config of a causal language model.

    Raises:
        InputError: as `inspect_source`.
    """
    from transformers import AutoConfig, PreTrainedConfig  # noqa: PLC0415 - slow to import

    header = None if location.gguf_file is None else _gguf_header(location, Path(location.gguf_file))
    with quiet_libraries(), parsed_once(header is not None):
        try:
            raw: dict[str, Any] = {}
            if location.gguf_file is None:
                raw, _ = PreTrainedConfig.get_config_dict(location.path, **location.arguments())
                require_plain_config(raw, location.source, trust_remote_code=trust_remote_code)
                _require_trust(location, raw, trust_remote_code)
            config = AutoConfig.from_pretrained(
                location.path, trust_remote_code=trust_remote_code, **location.arguments()
            )
        except InputError:
            raise
        except Exception as error:
            whole = bool(raw)  # then it was read, and something else is wrong
            hint = "" if whole else "; is the copy complete?"
            raise InputError(f"{_unreadable(location)}: {one_line(error)}{hint}") from error
    if header is not None:
        _follow_windows(config, header)
    if location.text_only:
        return _text_config(location, config)
    if not is_multimodal(config):
        _require_causal(location, config, raw.get("auto_map") or {})
    return config


def _gguf_header(location: Location, file: Path) -> GGUFHeader:
    header = read_gguf_header(file)
    if len(header.files) > 1 and not reads_split_models(header.architecture):
        raise InputError(
            f"{location.source} is one of {len(header.files)} parts of a model, and transformers reads "
            f"{header.architecture} from whole files; join them: llama-gguf-split --merge {file} WHOLE.gguf"
        )
    return header


def _follow_windows(config: Any, header: GGUFHeader) -> None:
    """Take each block's sliding window from a GGUF file that states it, which transformers does not read."""
    stated = header.own("attention.sliding_window_pattern")
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if stated is None or not stated.value or stated.count is None or not types or not window:
        return
    if stated.count != len(types) or not {"sliding_attention", "full_attention"}.issuperset(types):
        raise InputError(
            f"{stated.name} has {stated.count} elements, which do not fit the model's {len(types)} layers"
        )
    config.layer_types = ["sliding_attention" if slides else "full_attention" for slides in stated.value]


def _text_config(location: Location, config: Any) -> Any:
    """The config of the language model inside a multimodal one."""
    if not is_multimodal(config):
        raise InputError(
            f"--text-only is for multimodal models; {location.source} is a {config.model_type!r}"
        )
    if method := quantization_method(config):
        raise InputError(
            f"--text-only needs weights in full precision; {location.source} is quantized ({method})"
        )
    text = config.text_config
    _require_causal(location, text, {})
    if text.dtype is None:
        text.dtype = config.dtype
    return text


def _unreadable(location: Location) -> str:
    if not location.local:
        return (
            f"cannot find the model {location.source!r}, neither as a directory or file here nor on the hub"
        )
    what = "the GGUF file" if location.gguf_file else "the config of"
    return f"cannot read {what} {location.source}"


def _require_trust(location: Location, raw: dict[str, Any], trust_remote_code: bool) -> None:
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - slow to import

    if raw.get("auto_map") and not trust_remote_code and raw.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{location.source} can only be loaded by running Python code that comes with it; "
            "pass --trust-remote-code if you trust it"
        )


def _require_causal(location: Location, config: Any, remote_classes: dict[str, Any]) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING  # noqa: PLC0415

    is_decoder = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    what = f"{location.source} is not a causal language model: its model type {config.model_type!r} is"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{what} an encoder-decoder")
    if "AutoModelForCausalLM" in remote_classes:
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{what} not among transformers' causal language models")
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not is_decoder:
        raise InputError(f"{what} an encoder (its config does not say is_decoder)")
