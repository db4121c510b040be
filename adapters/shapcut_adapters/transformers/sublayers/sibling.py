"""Layers without an MLP in a family with mixtures of experts: a tiny zeroed MLP or expert takes its place.

A dense family becomes its sibling with mixtures: layers that have an MLP are dense ones there, the others
have one zeroed expert. In a mixture it is the other way round: the others are dense layers with a zeroed MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from shapcut_adapters.transformers.decoder import Decoder, find_decoder
from shapcut_adapters.transformers.file_cut import forbid_file_cut
from shapcut_adapters.transformers.removal import pinned_blocks, removal_objection, shortened
from shapcut_adapters.transformers.sublayers.kept_parts import KeptParts
from shapcut_adapters.transformers.sublayers.rewriting import rewritten

REMNANT_WIDTH = 8
"""Width of the zeroed MLP in place of a removed one; torch's grouped product takes multiples of 16 bytes."""

_EXPERTS = MappingProxyType(
    {"num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": REMNANT_WIDTH}
)
_MIXTURES = ("qwen2_moe", "qwen3_moe", "qwen3_next")
_OF_MLPS = ("mlp", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class _Sibling:
    """The family with mixtures that a dense family can be written as.

    Attributes:
        model_type: of the sibling.
        needs: values of config fields that the sibling does not have.
        fields: of the sibling's config.
    """

    model_type: str
    needs: Mapping[str, Any]
    fields: Mapping[str, Any]


_SIBLINGS = MappingProxyType(
    {
        "llama": _Sibling(
            "qwen2_moe",
            {"attention_bias": False, "mlp_bias": False},
            {"qkv_bias": False, "shared_expert_intermediate_size": REMNANT_WIDTH},
        ),
        "qwen2": _Sibling("qwen2_moe", {}, {"shared_expert_intermediate_size": REMNANT_WIDTH}),
        "qwen3": _Sibling("qwen3_moe", {"use_sliding_window": False}, {}),
    }
)


def sibling_objection(decoder: Decoder, kept: KeptParts) -> str:
    """Why the remaining parts cannot be written so; empty if they can."""
    config, family = decoder.config, decoder.family.model_type
    if config is not decoder.model.config or family not in {*_SIBLINGS, *_MIXTURES}:
        return f"no family with mixtures of experts has {family}'s layers"
    if kept.leading or not kept.mixers or any(len(layer.mlps) > 1 for layer in kept.layers):
        return "an MLP would follow another one, and every layer begins with attention"
    if pinned := set(pinned_blocks(decoder)).difference(set(kept.mixers).intersection(kept.mlps)):
        return f"block {min(pinned)} must stay whole: {pinned_blocks(decoder)[min(pinned)]}"
    if objection := removal_objection(decoder, kept.mixer_cut):
        return objection
    return _mixture_objection(decoder, kept) if family in _MIXTURES else _needs_objection(decoder)


def _needs_objection(decoder: Decoder) -> str:
    sibling = _SIBLINGS[decoder.family.model_type]
    for field, value in sibling.needs.items():
        if (found := getattr(decoder.config, field)) != value:
            return f"a {sibling.model_type} has no {field} (here {found})"
    return ""


def _mixture_objection(decoder: Decoder, kept: KeptParts) -> str:
    if not _stays_dense(decoder, kept):
        return ""
    absent = [block for block in kept.mixers if block not in kept.mlps and not _is_mixture(decoder, block)]
    if absent:
        return (
            f"block {absent[0]} has an ordinary MLP, and the config has one intermediate_size for all of them"
        )
    return ""


def _is_mixture(decoder: Decoder, block: int) -> bool:
    return hasattr(decoder.blocks[block].mlp, "experts")


def _stays_dense(decoder: Decoder, kept: KeptParts) -> bool:
    """Whether an ordinary MLP stays, so that the config's width of them must too."""
    return any(not _is_mixture(decoder, block) for block in kept.mlps)


def as_sibling(decoder: Decoder, kept: KeptParts) -> nn.Module:
    """A new model of the remaining parts, which shares their weights."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    configs: Any = AutoConfig
    models: Any = AutoModelForCausalLM
    family = decoder.family.model_type
    model_type = _SIBLINGS[family].model_type if family in _SIBLINGS else family
    config_class = type(configs.for_model(model_type))
    model_class = models._model_mapping[config_class]  # noqa: SLF001 - the class that from_config takes
    fields = shortened(decoder.config, decoder.family, kept.mixer_cut) | _fields(decoder, kept)
    new = rewritten(decoder, config_class, model_class, fields, _weights(decoder, kept))
    forbid_file_cut(find_decoder(new), f"are not those of the {type(decoder.model).__name__} in the files")
    return new


def _fields(decoder: Decoder, kept: KeptParts) -> dict[str, Any]:
    lacking = [index for index, layer in enumerate(kept.layers) if not layer.mlps]
    if decoder.family.model_type in _SIBLINGS:
        dense = [index for index, layer in enumerate(kept.layers) if layer.mlps]
        own = _SIBLINGS[decoder.family.model_type].fields
        return {**_EXPERTS, **own, "decoder_sparse_step": 1, "mlp_only_layers": dense}
    dense = [
        index
        for index, layer in enumerate(kept.layers)
        if layer.mlps and not _is_mixture(decoder, *layer.mlps)
    ]
    width = {} if _stays_dense(decoder, kept) or not lacking else {"intermediate_size": REMNANT_WIDTH}
    return {"decoder_sparse_step": 1, "mlp_only_layers": sorted(dense + lacking), **width}


def _weights(decoder: Decoder, kept: KeptParts) -> dict[str, Tensor]:
    weights = {}
    places = {layer.mixer: index for index, layer in enumerate(kept.layers)}
    of_mlps = {layer.mlps[0]: index for index, layer in enumerate(kept.layers) if layer.mlps}
    for name, tensor in decoder.model.state_dict().items():
        if not name.startswith(f"{decoder.stack}."):
            weights[name] = tensor
            continue
        block, _, rest = name.removeprefix(f"{decoder.stack}.").partition(".")
        place = (of_mlps if rest.partition(".")[0] in _OF_MLPS else places).get(int(block))
        if place is not None:
            weights[f"{decoder.stack}.{place}.{rest}"] = tensor
    return weights


def remnants(decoder: Decoder, kept: KeptParts) -> int:
    """The number of parameters in the place of absent MLPs, their norms included."""
    config, family = decoder.config, decoder.family.model_type
    lacking = sum(not layer.mlps for layer in kept.layers)
    if family in _MIXTURES:
        width = config.intermediate_size if _stays_dense(decoder, kept) else REMNANT_WIDTH
        return lacking * int(config.hidden_size) * (3 * int(width) + 1)
    sibling = _SIBLINGS[family]
    rows = 3 * REMNANT_WIDTH + 2  # an expert, its router, the norm
    if "shared_expert_intermediate_size" in sibling.fields:
        rows += 3 * REMNANT_WIDTH + 1  # the shared expert and its gate
    return lacking * int(config.hidden_size) * rows
