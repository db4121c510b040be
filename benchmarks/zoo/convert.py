"""Write a model of the zoo as another library reads it: python benchmarks/zoo/convert.py MODEL_DIRECTORY OUT.

RWKV-4 and RWKV-7 become a directory with a ``model.pth`` of the ``rwkv`` package, Mamba and Mamba-2 a
directory of the ``mamba-ssm`` package. The tokenizer goes along.
"""

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from shapcut.support.errors import InputError
from shapcut.support.files import new_directory, require_new_directory, write_json_atomically

Weights = dict[str, Tensor]
Config = dict[str, Any]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PACKAGE_HEAD = 64
"""The head size that the rwkv package's epsilon of the norm of heads is made for."""

_LAYER_NORM_EPSILON = 1e-5
_RWKV4_NAMES = {
    "rwkv.embeddings": "emb",
    "rwkv.": "",
    "pre_ln": "ln0",
    "attention": "att",
    "feed_forward": "ffn",
    "time_mix_key": "time_mix_k",
    "time_mix_value": "time_mix_v",
    "time_mix_receptance": "time_mix_r",
}
_RWKV7_NAMES = {
    "model.embeddings": "emb",
    "model.norm": "ln_out",
    "model.layers": "blocks",
    "lm_head": "head",
    "pre_norm": "ln0",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    "attn.g_norm": "att.ln_x",
    "attn.": "att.",
    "r_proj": "receptance",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
}
_LOW_RANK = {"0.weight": "1", "2.weight": "2", "2.bias": "0"}


def rwkv4_weights(weights: Weights, config: Config) -> Weights:
    """The weights of transformers' RWKV-4 under the names of the rwkv package.

    Raises:
        InputError: if the package would normalize otherwise.
    """
    _require_epsilon(config["layer_norm_epsilon"])
    return {_renamed(name, _RWKV4_NAMES): tensor for name, tensor in weights.items()}


def rwkv7_weights(weights: Weights, config: Config) -> Weights:
    """The weights of rwkv7-hf's RWKV-7 as the rwkv package wants them.

    rwkv7-hf's epsilon of the norm of heads grows with their size, the package's is that of 64. Receptances
    that are larger by the root of the ratio, and a bonus (``r_k``) smaller by it, make up for that exactly.

    Raises:
        InputError: if the package would normalize otherwise.
    """
    _require_epsilon(config["norm_eps"])
    scale = math.sqrt(PACKAGE_HEAD / config["head_dim"])
    converted = {}
    for name, tensor in weights.items():
        new = _renamed(name, _RWKV7_NAMES)
        if low_rank := re.fullmatch(r"(.*)([wavg])_lora\.lora\.(\d\.\w+)", new):
            new = low_rank[1] + low_rank[2] + _LOW_RANK[low_rank[3]]
            tensor = tensor.mT if tensor.dim() > 1 else tensor  # noqa: PLW2901 - one name for one weight
        if new.endswith("att.receptance.weight"):
            tensor = tensor * scale  # noqa: PLW2901
        elif new.endswith("r_k"):
            tensor = tensor / scale  # noqa: PLW2901
        converted[new] = tensor.contiguous()
    return converted


def mamba_weights(weights: Weights, config: Config) -> Weights:
    """The weights of transformers' Mamba or Mamba-2 under the names of mamba-ssm.

    Raises:
        InputError: if mamba-ssm would normalize otherwise.
    """
    _require_epsilon(config["layer_norm_epsilon"])
    converted = {name.replace("embeddings", "embedding"): tensor for name, tensor in weights.items()}
    return {"lm_head.weight": converted["backbone.embedding.weight"]} | converted


def mamba_config(config: Config) -> Config:
    """The config of mamba-ssm for that of transformers' Mamba or Mamba-2."""
    mixer = {"d_state": config["state_size"], "d_conv": config["conv_kernel"], "expand": config["expand"]}
    if config["model_type"] == "mamba2":
        heads = {"headdim": config["head_dim"], "ngroups": config["n_groups"]}
        mixer |= {"layer": "Mamba2", "chunk_size": config["chunk_size"]} | heads
    else:
        mixer |= {"layer": "Mamba1", "dt_rank": config["time_step_rank"]}
    return {
        "d_model": config["hidden_size"],
        "d_intermediate": 0,
        "n_layer": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"],
        "ssm_cfg": mixer,
        "rms_norm": True,
        "residual_in_fp32": config["residual_in_fp32"],
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": config["tie_word_embeddings"],
    }


CONVERTERS: dict[str, Callable[[Weights, Config], Weights]] = {
    "rwkv": rwkv4_weights,
    "rwkv7": rwkv7_weights,
    "mamba": mamba_weights,
    "mamba2": mamba_weights,
}


def convert(source: Path, out: Path) -> None:
    """Convert a model directory into a new one.

    Raises:
        InputError: if ``out`` is not empty, or the other library cannot express the model.
    """
    require_new_directory(out)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    kind = config["model_type"]
    if kind not in CONVERTERS:
        raise InputError(f"{source} is of type {kind!r}; known are {', '.join(CONVERTERS)}")
    weights = CONVERTERS[kind](load_file(source / "model.safetensors"), config)
    with new_directory(out) as directory:
        if kind.startswith("mamba"):
            write_json_atomically(directory / "config.json", mamba_config(config))
        torch.save(weights, directory / ("pytorch_model.bin" if kind.startswith("mamba") else "model.pth"))
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)


def _require_epsilon(found: float) -> None:
    if found != _LAYER_NORM_EPSILON:
        raise InputError(
            f"the norms' epsilon is {found}, the other library's is always {_LAYER_NORM_EPSILON}"
        )


def _renamed(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a directory as train.py writes it")
    parser.add_argument("out", type=Path, help="a new directory")
    options = parser.parse_args()
    try:
        convert(options.model, options.out)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
