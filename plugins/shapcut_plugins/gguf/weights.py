"""A transformers model's weights under the names and in the layout of GGUF."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.contracts import InputError

Array = NDArray[Any]
Layout = Callable[[str, Array, Any], Array]
"""Name in GGUF, values and the model's config give the values as GGUF stores them."""

KINDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Names of the tensor types in the gguf package."""

_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_GROUP = 32
"""Weights of a row that share a scale in Q8_0."""


def _as_it_is(name: str, values: Array, config: Any) -> Array:
    del name, config
    return values


def _with_interleaved_halves(name: str, values: Array, config: Any) -> Array:
    """GGUF keeps the two halves that rotate together as neighbours, in queries and keys of a Llama."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if f".{part}." in name), None)
    if count is None:
        return values
    split = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
    return split.swapaxes(1, 2).reshape(values.shape)


def _with_whole_norms(name: str, values: Array, config: Any) -> Array:
    """GGUF keeps the factor of a norm; Gemma keeps what is added to one."""
    del config
    return values + np.float32(name.endswith("norm.weight"))


LAYOUTS: Mapping[str, Layout] = {
    "llama": _with_interleaved_halves,
    "qwen2": _as_it_is,
    "qwen3": _as_it_is,
    "gemma2": _with_whole_norms,
    "gemma3": _with_whole_norms,
    "phi3": _as_it_is,
}
"""By architecture in GGUF: those whose weights are known to correspond one to one."""


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """The values of a model for a GGUF file; see `shapcut.contracts.NewWeights`.

    Attributes:
        file_type: number of the file's type in GGML.
        dtype: one of `KINDS`.
        layout: of the architecture.
        config: the model's.
        tensors: by name in GGUF.
    """

    file_type: int
    dtype: str
    layout: Layout
    config: Any
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, architecture: str, dtype: str) -> "ModelWeights":
        """The weights of a model.

        Raises:
            InputError: if one has no name in GGUF.
        """
        import gguf  # noqa: PLC0415 - only for GGUF files

        known: Any = model
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        names = gguf.get_tensor_name_map(numbers[architecture], known.config.num_hidden_layers)
        tied = known.get_output_embeddings().weight is known.get_input_embeddings().weight
        tensors = {}
        for name, tensor in model.state_dict().items():
            if tied and name.startswith("lm_head."):
                continue
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise InputError(
                    f"gguf: {name} has no name in a GGUF file of {architecture}; leave out this step"
                )
            tensors[found] = tensor
        return cls(
            int(gguf.LlamaFileType[_FILE_TYPES[dtype]]), dtype, LAYOUTS[architecture], known.config, tensors
        )

    def kind(self, name: str, shape: tuple[int, ...]) -> int | None:
        """The type in GGML; norms and biases stay in float32, None for what the model does not have.

        Raises:
            InputError: if the model's tensor has another shape.
        """
        import gguf  # noqa: PLC0415 - as above

        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        if tuple(reversed(shape)) != tuple(tensor.shape):
            raise InputError(
                f"gguf: {name} has the shape {tuple(tensor.shape)} in the model, and "
                f"{tuple(reversed(shape))} in the GGUF file; leave out this step"
            )
        chosen = "F32" if len(shape) == 1 else KINDS[self.dtype]
        if chosen == "Q8_0" and shape[0] % _GROUP:
            chosen = "F16"
        return int(gguf.GGMLQuantizationType[chosen])

    def content(self, name: str) -> bytes:
        """The bytes of a tensor."""
        from gguf import GGMLQuantizationType, quants  # noqa: PLC0415 - as above

        tensor = self.tensors[name]
        values = self.layout(name, tensor.detach().float().cpu().numpy(), self.config)
        kind = GGMLQuantizationType(self.kind(name, tuple(reversed(tensor.shape))) or 0)
        content: bytes = quants.quantize(np.ascontiguousarray(values), kind).tobytes()
        return content
