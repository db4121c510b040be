"""Tiny random models of each kind, offline."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from shapcut_adapters.mamba_ssm.package import import_mamba_ssm
from shapcut_adapters.shared.random_weights import perturb, seeded

VOCABULARY = 96
_SHAPE = (3, 12)
_SIZE: Mapping[str, Any] = {"d_model": 32, "n_layer": 6, "vocab_size": VOCABULARY}
_MAMBA2 = {"layer": "Mamba2", "d_state": 8, "headdim": 8, "ngroups": 2}

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "mamba": {},
    "mamba-unfused": {"fused_add_norm": False, "residual_in_fp32": False},
    "mamba-layer-norm": {"rms_norm": False, "tie_embeddings": False},
    "mamba-layer-norm-unfused": {"rms_norm": False, "fused_add_norm": False},
    "mamba2": {"ssm_cfg": _MAMBA2},
    "mamba2-attention-mlp": {
        "ssm_cfg": _MAMBA2,
        "attn_layer_idx": [1, 4],
        "attn_cfg": {"num_heads": 4, "num_heads_kv": 2, "causal": True, "d_conv": 4},
        "d_intermediate": 48,
    },
}
"""Each example's config, in addition to the package's defaults."""


def tiny_model(changes: Mapping[str, Any], seed: int) -> tuple[nn.Module, Tensor]:
    """A model of six blocks in float32 and token ids of shape (3, 12).

    Args:
        changes: config fields that differ from the package's defaults.
        seed: of weights and tokens.
    """
    package = import_mamba_ssm()
    config_module: Any = import_module("mamba_ssm.models.config_mamba")
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        model: nn.Module = package.MambaLMHeadModel(config_module.MambaConfig(**{**_SIZE, **changes}))
    perturb(model, generator)
    tokens = torch.randint(3, VOCABULARY, _SHAPE, generator=generator)
    return model.eval(), tokens
