"""Tiny random RWKV models, built in memory under the names of a file."""

import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from shapcut_adapters.rwkv.model import RwkvModel
from shapcut_adapters.rwkv.weights import Version

VERSIONS: tuple[Version, ...] = get_args(Version)

_LAYERS = 5
_VOCABULARY = 96
_HEADS, _HEAD_SIZE, _RANK = 2, 16, 4
_WIDTH, _INNER = _HEADS * _HEAD_SIZE, 48
_SHAPE = (3, 8)


class _Random:
    """Draws random weights of the usual scales."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) * (1.5 / math.sqrt(shape[-1]))

    def around(self, center: float, *shape: int) -> Tensor:
        return center + 0.2 * torch.randn(shape, generator=self.generator)

    def mixes(self, names: str, prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{name}": torch.rand(1, 1, _WIDTH, generator=self.generator) for name in names}

    def norm(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.around(1.0, _WIDTH), f"{name}.bias": self.around(0.0, _WIDTH)}


def tiny_rwkv(version: Version, seed: int) -> tuple[RwkvModel, Tensor]:
    """A model of five layers in fp32 and token ids of shape (3, 8)."""
    random = _Random(seed)
    weights = {"emb.weight": random.matrix(_VOCABULARY, _WIDTH)}
    for index in range(_LAYERS):
        block = _common(random, index) | _OWN[version](random)
        weights |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
    weights |= random.norm("ln_out") | {"head.weight": random.matrix(_VOCABULARY, _WIDTH)}
    tokens = torch.randint(3, _VOCABULARY, _SHAPE, generator=random.generator)
    return RwkvModel(weights).eval(), tokens


def _common(random: _Random, index: int) -> dict[str, Tensor]:
    names = [f"ln{number}" for number in range(0 if index == 0 else 1, 3)]
    weights = {name: tensor for norm in names for name, tensor in random.norm(norm).items()}
    for name in ("key", "value", "receptance", "output"):
        weights[f"att.{name}.weight"] = random.matrix(_WIDTH, _WIDTH)
    weights["ffn.key.weight"] = random.matrix(_INNER, _WIDTH)
    weights["ffn.value.weight"] = random.matrix(_WIDTH, _INNER)
    return weights


def _v4(random: _Random) -> dict[str, Tensor]:
    return {
        "ffn.receptance.weight": random.matrix(_WIDTH, _WIDTH),
        "att.time_decay": random.around(-1.0, _WIDTH),
        "att.time_first": random.around(0.5, _WIDTH),
        **random.mixes("kvr", "att.time_mix_"),
        **random.mixes("kr", "ffn.time_mix_"),
    }


def _gated(random: _Random) -> dict[str, Tensor]:
    return {
        "ffn.receptance.weight": random.matrix(_WIDTH, _WIDTH),
        "att.gate.weight": random.matrix(_WIDTH, _WIDTH),
        "att.time_faaaa": random.around(0.5, _HEADS, _HEAD_SIZE),
        **random.norm("att.ln_x"),
    }


def _v5(random: _Random) -> dict[str, Tensor]:
    return {
        **_gated(random),
        "att.time_decay": random.around(-1.0, _HEADS, _HEAD_SIZE),
        **random.mixes("kvrg", "att.time_mix_"),
        **random.mixes("kr", "ffn.time_mix_"),
    }


def _v6(random: _Random) -> dict[str, Tensor]:
    return {
        **_gated(random),
        "att.time_decay": random.around(-1.0, 1, 1, _WIDTH),
        **random.mixes("xwkvrg", "att.time_maa_"),
        **random.mixes("kr", "ffn.time_maa_"),
        "att.time_maa_w1": random.matrix(_WIDTH, 5 * _RANK),
        "att.time_maa_w2": random.matrix(5, _RANK, _WIDTH),
        "att.time_decay_w1": random.matrix(_WIDTH, _RANK),
        "att.time_decay_w2": random.matrix(_RANK, _WIDTH),
    }


def _v7(random: _Random) -> dict[str, Tensor]:
    ranks = {}
    for name in "wav":
        ranks[f"att.{name}0"] = random.around(0.0, 1, 1, _WIDTH)
    for name in "wavg":
        ranks[f"att.{name}1"] = random.matrix(_WIDTH, _RANK)
        ranks[f"att.{name}2"] = random.matrix(_RANK, _WIDTH)
    return {
        **ranks,
        **random.norm("att.ln_x"),
        **random.mixes("rwkvag", "att.x_"),
        **random.mixes("k", "ffn.x_"),
        "att.k_k": random.around(1.0, 1, 1, _WIDTH),
        "att.k_a": random.around(1.0, 1, 1, _WIDTH),
        "att.r_k": random.around(0.0, _HEADS, _HEAD_SIZE),
    }


_OWN: dict[Version, Callable[[_Random], dict[str, Tensor]]] = {"4": _v4, "5.2": _v5, "6": _v6, "7": _v7}
