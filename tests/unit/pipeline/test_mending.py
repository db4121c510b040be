"""When a run compensates, and on which text."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shapcut.host.host import build_host, select_adapter
from shapcut.host.open_model import OpenModel
from shapcut.models.location import Location
from shapcut.models.source import ModelSource
from shapcut.pipeline import mending
from shapcut.pipeline.mending import with_mending
from shapcut.pipeline.output import require_gguf_recipe
from shapcut.pipeline.parts import make_parts
from shapcut.pipeline.windows import RunText
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

HOST = build_host()


def opened(name: str = "llama") -> OpenModel:
    model = HFDecoderAdapter().examples()[name](0)[0].requires_grad_(requires_grad=False)
    adapter = select_adapter(HOST, model)
    return OpenModel(adapter.canonicalise(model), None, adapter, ModelSource(Location("any", "any"), "cpu"))


def steps(model: OpenModel | None = None, **options: Any) -> tuple[list[str], list[str]]:
    """The steps of a run, and what it says."""
    recipe = make_recipe({"model": "any", "mend": True, **options})
    parts, said = with_mending(make_parts(recipe, HOST), recipe, HOST, model or opened())
    return [spec for spec, _ in parts.steps], [said] if said else []


def test_a_cut_is_compensated_first_and_once() -> None:
    assert steps() == (["compensate"], [])
    assert steps(then=["heal:steps=2"]) == (["compensate", "heal:steps=2"], [])
    assert steps(then=["compensate:samples=9"]) == (["compensate:samples=9"], [])


def test_a_cut_is_left_as_it_is_if_asked() -> None:
    assert steps(mend=False) == ([], [])
    assert steps(preset="greedy") == (["compensate"], [])


@pytest.mark.parametrize(
    ("given", "as_file", "mends"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"mend": False}, False, False),
        ({"mend": True}, True, True),
        ({"preset": "ours"}, False, True),
        ({"preset": "paper"}, False, False),
        ({"preset": "paper", "mend": True}, False, True),
    ],
)
def test_a_cut_is_compensated_unless_a_file_or_a_preset_is_to_stay_as_it_is(
    given: dict[str, Any], as_file: bool, mends: bool
) -> None:
    decided = make_recipe({"model": "any", **given}).mended_by_default(as_file=as_file)
    assert decided.mend is mends
    assert yaml.safe_load(decided.to_yaml())["mend"] is mends


def test_one_line_says_why_a_cut_is_not_compensated(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = steps(opened("doge"))
    assert not found
    assert said == [
        "the cut is not compensated: no block of DogeForCausalLM ends in a linear map that is added to the "
        "residual stream"
    ]
    weights = sum(weight.numel() * weight.element_size() for weight in opened().model.parameters())
    monkeypatch.setattr(mending, "_free_memory", lambda _: weights)
    assert steps()[1][0].startswith("the cut is not compensated: that needs the original beside it")


def test_finalists_cannot_be_compared_after_a_compensation_that_cannot_be() -> None:
    with pytest.raises(InputError, match="--mend-finalists: the cut cannot be compensated: no block of Doge"):
        steps(opened("doge"), mend_finalists=True)
    with pytest.raises(
        InputError, match="--mend-finalists needs finalist samples, and --mend or a step that compensates"
    ):
        steps(mend_finalists=True, mend=False)


def test_a_file_that_keeps_the_bytes_of_the_original_is_not_compensated() -> None:
    with pytest.raises(InputError, match="so --mend cannot change them; name a directory"):
        require_gguf_recipe(make_recipe({"model": "a.gguf", "mend": True, "remove": 1}), Path("small.gguf"))


def test_a_single_source_is_fitted_with_general_text_beside_it(tmp_path: Path, tokenizer: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The player left the stage before the coalition had sung. " * 400)

    def by_source(source: str) -> dict[str, torch.Tensor]:
        return RunText(source, tokenizer, 32, 0).by_source(32)

    found = by_source(str(text))
    assert set(found) == {str(text), "general"}
    assert len(found["general"]) == 3 * len(found[str(text)])
    assert set(by_source(f"{text}+builtin")) == {str(text), "builtin"}
    assert set(by_source("general")) == {"general"}


def test_sources_of_a_mixture_have_their_shares(tmp_path: Path, tokenizer: Any) -> None:
    texts = [tmp_path / f"{name}.txt" for name in ("one", "two")]
    for place, word in zip(texts, ("stage", "surrogate"), strict=True):
        place.write_text(f"The {word} was there. " * 600)
    found = RunText(f"{texts[0]}:3+{texts[1]}", tokenizer, 32, 0).by_source(32)
    assert [len(windows) // len(found[str(texts[1])]) for windows in found.values()] == [3, 1]


def test_quantized_weights_are_not_compensated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "is_quantized", lambda _: True)
    assert steps() == ([], ["the cut is not compensated: its weights are quantized"])
