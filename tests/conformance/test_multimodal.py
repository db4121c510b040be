"""The language model inside a multimodal model is pruned, and the whole model is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from shapcut.support.quiet import quiet_libraries
from shapcut.testing import CHECKS, run_check
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.decoder import find_decoder
from shapcut_adapters.transformers.families import WRAPPERS
from shapcut_adapters.transformers.tiny_models import tiny_wrapper

NAMES = [wrapper.model_type for wrapper in WRAPPERS]
MECHANISMS = {
    "qwen3_vl": "features of the image behind the first layers",
    "qwen3_5": "linear attention, positions in three dimensions",
}
REMOVED = {"gemma3n": (0, 4), "gemma4": (0, 4)}
"""Layers to remove, where 2 and 4 cannot go: two later ones use what the second computes."""
REBUILT = ("gemma3n", "gemma4")
PIXELS = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
PATCHES = torch.randn(16, 48, generator=torch.Generator().manual_seed(3))
LARGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
GRID = {"pixel_values": PATCHES, "image_grid_thw": torch.tensor([[1, 4, 4]])}
IMAGES: dict[str, tuple[int, dict[str, torch.Tensor]]] = {
    "gemma3": (4, {"pixel_values": PIXELS}),
    "mistral3": (4, {"pixel_values": PIXELS, "image_sizes": torch.tensor([[16, 16]])}),
    "qwen2_vl": (4, GRID),
    "qwen2_5_vl": (4, GRID),
    "qwen3_vl": (4, GRID),
    "qwen3_vl_moe": (4, GRID),
    "qwen3_5": (4, GRID),
    "qwen3_5_moe": (4, GRID),
    "llama4": (4, {"pixel_values": PIXELS}),
    "llava": (16, {"pixel_values": PIXELS}),
    "llava_onevision": (
        36,
        {"pixel_values": torch.stack([PIXELS, PIXELS.flip(-1)], 1), "image_sizes": torch.tensor([[16, 16]])},
    ),
    "smolvlm": (4, {"pixel_values": PIXELS[None]}),
    "internvl": (4, {"pixel_values": PIXELS}),
    "gemma3n": (4, {"pixel_values": LARGE}),
    "gemma4": (
        4,
        {
            "pixel_values": PATCHES[None],
            "image_position_ids": torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(-1)[None],
        },
    ),
}
"""For each kind, how many tokens an image takes, and the image."""


def with_image(name: str) -> dict[str, torch.Tensor]:
    count, image = IMAGES[name]
    ids = torch.tensor([[5, 92, *[90] * count, 93, 6, 7, 8, 9]])
    types = {"mm_token_type_ids": (ids == 90).long()} if "image_grid_thw" in image else {}
    types |= {"token_type_ids": (ids == 90).long()} if name == "gemma3" else {}
    types |= {"mm_token_type_ids": (ids == 90).long()} if name == "gemma4" else {}
    return {"input_ids": ids, **image, **types}


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.mark.filterwarnings("ignore:Casting complex values to real")  # a table of Llama 4's vision tower
@pytest.mark.parametrize("family_case", MECHANISMS, indirect=True)
def test_conformance(family_case: Any) -> None:
    failed = [result for check in CHECKS if not (result := run_check(family_case, check)).passed]
    assert failed == []


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=NAMES)
@pytest.mark.parametrize("as_files", [True, False], ids=["as files", "from memory"])
def test_the_whole_model_is_written(wrapper: Any, as_files: bool, tmp_path: Path) -> None:
    for package in wrapper.needs:
        pytest.importorskip(package, reason="its vision tower is built with it")
    source, out, adapter = tmp_path / "source", tmp_path / "out", HFDecoderAdapter()
    text = {"input_ids": torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))}
    image, removed = with_image(wrapper.model_type), REMOVED.get(wrapper.model_type, (2, 4))
    with quiet_libraries():
        tiny_wrapper(wrapper, 0)[0].save_pretrained(source)
        model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype="auto").eval()
        blank = {**image, "pixel_values": torch.zeros_like(image["pixel_values"])}
        assert not torch.allclose(logits(model, image), logits(model, blank)), "the image is not read"
        whole = [logits(model, inputs) for inputs in (text, image)]
        blocks = find_decoder(model).blocks
        own = {index: blocks[index].forward for index in removed}
        for index in removed:
            blocks[index].forward = lambda hidden_states, *_, **__: hidden_states
        expected = [logits(model, inputs) for inputs in (text, image)]
        for index, forward in own.items():
            blocks[index].forward = forward
        assert adapter.can_remove(model, removed) is None
        cut = adapter.remove(model, removed)
        objection = adapter.files_objection(cut, source)
        assert ("must be rebuilt" in objection) is (wrapper.model_type in REBUILT)
        if as_files and not objection:
            adapter.save_files(cut, source, out)
        else:
            adapter.save(cut, out)
        reloaded, info = AutoModelForImageTextToText.from_pretrained(
            out, dtype="auto", output_loading_info=True
        )
    assert type(reloaded) is type(model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for before, bypassed, inputs in zip(whole, expected, (text, image), strict=True):
        assert float((before - bypassed).abs().max()) > 1e-2
        assert torch.allclose(logits(reloaded.eval(), inputs), bypassed, atol=1e-5)


def test_layers_with_features_of_the_image_behind_them_stay() -> None:
    (wrapper,) = [wrapper for wrapper in WRAPPERS if wrapper.model_type == "qwen3_vl"]
    model, _ = tiny_wrapper(wrapper, 0)
    players = HFDecoderAdapter().players(model)
    assert [player.index for player in players if not player.removable] == [0, 1]
    assert "features of the image" in players[0].reason
