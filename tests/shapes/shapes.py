"""Configs with their published structure and small widths, cut and compared with plain transformers."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from shapcut_adapters.shared.random_weights import perturb
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.decoder import find_decoder
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.tiny_models import _SIZE

SHAPES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("shapes.json").read_text())
"""By name: ``source`` (of the values) and ``config``."""

_FAMILY = {family.model_type: family for family in FAMILIES}
_STRUCTURE = re.compile(
    r"layer(?!_input)|pattern|period|offset|interval|freq|dense_replace|types|step|nextn|shared_layers|tie_|activation|num_blocks"
)
_PASSED_ON = {"glm_moe_dsa": ("prev_topk_indices",)}
"""What a block gives on behind the hidden states, by the name under which it gets it."""
_WINDOW = 8
_IDS = (2, 14)


@dataclass(frozen=True)
class Outcome:
    """What came of a cut.

    Attributes:
        layers: before the cut.
        removed: which went.
        effect: of their absence on the logits.
        difference: of the written and reloaded model from the bypassed original.
        cache_agrees: whether decoding with and without a cache give the same tokens.
    """

    layers: int
    removed: tuple[int, ...]
    effect: float
    difference: float
    cache_agrees: bool

    @property
    def exact(self) -> bool:
        return self.cache_agrees and self.effect > 0 and self.difference <= 1e-5 * max(1.0, self.effect)


def narrow(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the widths of the family's example; what says of layers which they are stays."""
    family = _FAMILY[config["model_type"]]
    widths = {key: value for key, value in {**_SIZE, **family.tiny}.items() if not _STRUCTURE.search(key)}
    small = {**config, **widths}
    if family.tiny.get("n_routed_experts", 0) and "num_experts_per_tok" in small:
        small["num_experts_per_tok"] = min(small["num_experts_per_tok"], small["n_routed_experts"])
    for name in ("sliding_window", "attention_chunk_size", "sliding_window_size", "local_attention"):
        if isinstance(config.get(name), int):
            small[name] = _WINDOW
    return {
        key: value
        for key, value in small.items()
        if key not in ("rope_scaling", "rope_parameters", "rope_theta")
    }


def try_shape(name: str, seed: int = 0) -> Outcome:
    """Build a shape, cut it at random places, write and reload it, compare."""
    config = narrow(SHAPES[name]["config"])
    model_type = config.pop("model_type")
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as place:
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
        perturb(model, torch.Generator().manual_seed(seed))
        source, out = Path(place) / "source", Path(place) / "out"
        model.eval().save_pretrained(source)
        return _cut(source, out, seed)


def _cut(source: Path, out: Path, seed: int) -> Outcome:
    adapter = HFDecoderAdapter()
    ids = torch.randint(3, 90, _IDS, generator=torch.Generator().manual_seed(seed))
    model: Any = adapter.canonicalise(AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval())
    whole = logits(model, ids)
    players = adapter.players(model)
    removed = _drawn(adapter, model, [player.index for player in players if player.removable], seed)
    expected = bypassed(model, removed, ids)
    cut = adapter.remove(model, removed)
    if adapter.files_objection(cut, source):
        adapter.save(cut, out)
    else:
        adapter.save_files(cut, source, out)
    reloaded = adapter.load(out)
    tokens = [adapter.generate(reloaded, ids, 5, use_cache=cached) for cached in (True, False)]
    return Outcome(
        len(players),
        removed,
        float((whole - expected).abs().max()),
        float((logits(reloaded, ids) - expected).abs().max()),
        bool(adapter.cache_differs(reloaded)) or torch.equal(*tokens),
    )


def _drawn(adapter: HFDecoderAdapter, model: nn.Module, removable: list[int], seed: int) -> tuple[int, ...]:
    """A fifth of the layers, or fewer if the family's rules refuse every draw of that size."""
    generator = np.random.default_rng(seed)
    for size in range(max(1, len(removable) // 5), 0, -1):
        for _ in range(8):
            drawn = tuple(sorted(generator.choice(removable, size, replace=False).tolist()))
            if adapter.can_remove(model, drawn) is None:
                return drawn
    raise AssertionError("no set of layers can be removed")


def bypassed(model: nn.Module, removed: tuple[int, ...], ids: Tensor) -> Tensor:
    """Logits while some layers give back what they get, by nothing but their forward."""
    blocks = find_decoder(model).blocks
    passed_on = _PASSED_ON.get(model.config.model_type, ())
    kinds: dict[int, Any] = {}
    hooks = [
        blocks[index].register_forward_hook(lambda _m, _a, output, i=index: kinds.update({i: output}))
        for index in removed
    ]
    logits(model, ids)
    for hook in hooks:
        hook.remove()
    for index in removed:
        output = kinds[index]

        def skip(hidden_states: Tensor, *_: Any, out: Any = output, **given: Any) -> Any:
            if isinstance(out, Tensor):
                return hidden_states
            rest = [given[name] for name in passed_on] or [None] * (len(out) - 1)
            return type(out)([hidden_states, *rest])

        blocks[index].forward = skip
    found = logits(model, ids)
    for index in removed:
        del blocks[index].forward
    return found


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found
