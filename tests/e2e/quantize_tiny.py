"""Prune and quantize a tiny model, then prune the quantized checkpoint: MODEL DIRECTORY STEP ...

In a process of its own, because some quantization packages change the one that they are imported into.
"""

import json
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from shapcut.host.host import build_host, select_adapter
from shapcut.measurement.sizes import checkpoint_bytes
from shapcut.models.fingerprint import model_fingerprint
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe
from shapcut.support.quiet import quiet_libraries
from shapcut.valuation.model_game import ModelGame

WEIGHTS = "model.safetensors"
IDS = torch.randint(2, 300, (3, 24), generator=torch.Generator().manual_seed(0))


def options(model: Path, then: tuple[str, ...]) -> dict[str, Any]:
    return {
        "model": str(model),
        "remove": 1,
        "budget": 8,
        "samples": 8,
        "sequence_length": 32,
        "finalist_samples": 0,
        "held_out_samples": 2,
        "then": then,
    }


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


def cut_differences(adapter: Any, model: Any, directory: Path) -> tuple[dict[str, float], float]:
    """How far the fast path, removal and reloading are from the bypass; and what the absence does."""
    game = ModelGame(model, adapter, IDS)
    coalition = np.ones((1, game.n_players), dtype=np.bool_)
    coalition[0, 1] = False
    value = float(game.values(coalition)[0])
    whole = adapter.logits(model, IDS)
    with adapter.bypass(model, [index for index in range(game.n_players) if index != 1]):
        expected = adapter.logits(model, IDS)
    losses = functional.cross_entropy(expected[:, :-1].float().flatten(0, 1), IDS[:, 1:].flatten())
    with quiet_libraries():
        removed = adapter.remove(model, [1])
        adapter.save(removed, directory)
        reloaded = adapter.load(directory)
    fast = abs(value + float(losses))
    rounding = 1e-5 if expected.dtype == torch.float32 else 1e-2
    found = {
        "fast": 0.0 if fast <= rounding else fast,
        "remove": difference(adapter.logits(removed, IDS), expected),
        "reload": difference(adapter.logits(reloaded, IDS), expected),
    }
    return found, difference(whole, expected)


def bytes_differ(quantized: Path, cut: Path) -> list[str]:
    """Names of tensors of a cut without layer 1 whose bytes are not those of the source."""

    def original(name: str) -> str:
        return re.sub(r"(?<=\.layers\.)[1-9]\d*", lambda found: str(int(found[0]) + 1), name)

    before, after = load_file(quantized / WEIGHTS), load_file(cut / WEIGHTS)
    return [
        name
        for name, tensor in after.items()
        if not torch.equal(
            tensor.flatten().view(torch.uint8), before[original(name)].flatten().view(torch.uint8)
        )
    ]


def examine(source: Path, directory: Path, step: str, plain: Path, wanted: torch.Tensor) -> dict[str, Any]:
    """What a step and another cut of its result come to, beside the cut that is not quantized."""
    host = build_host()
    quantized = directory / "quantized"
    prune(make_recipe(options(source, (step,))), quantized, host)
    after = load(ModelSource.find(str(quantized))).model
    adapter = select_adapter(host, after)
    fingerprints = {model_fingerprint(after)}
    found = adapter.logits(after, IDS).float()
    differences, effect = cut_differences(
        adapter, load(ModelSource.find(str(quantized))).model, directory / "cut"
    )
    config = [json.loads((path / "config.json").read_text()) for path in (quantized, directory / "cut")]
    fingerprints.add(model_fingerprint(load(ModelSource.find(str(quantized))).model))
    with quiet_libraries():
        fingerprints.add(model_fingerprint(adapter.load(directory / "cut")))
    return {
        "relative_error": float((found - wanted).square().mean().sqrt() / wanted.std()),
        "bytes": checkpoint_bytes(quantized),
        "bytes_before": checkpoint_bytes(plain),
        "cut_differences": differences,
        "effect": effect,
        "bytes_differ": bytes_differ(quantized, directory / "cut"),
        "layers": [content["num_hidden_layers"] for content in config],
        "fingerprints": len(fingerprints),
        "sym": config[0]["quantization_config"].get("sym"),
    }


def main(source: Path, directory: Path, steps: Sequence[str]) -> None:
    host, plain = build_host(), directory / "plain"
    prune(make_recipe(options(source, ())), plain, host)
    before = load(ModelSource.find(str(plain))).model
    wanted = select_adapter(host, before).logits(before, IDS)
    found: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps):
        place = directory / str(number)
        place.mkdir()
        try:
            found[step] = examine(source, place, step, plain, wanted)
        except Exception:  # noqa: BLE001 - the other steps are to be examined too
            traceback.print_exc()
    (directory / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
