"""The projections that adapters declare, over families of every kind, and declarations that are wrong."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from shapcut.game.coalitions import Player
from shapcut.models.adapter import Adapter
from shapcut.models.output_projection import OutputProjection
from shapcut.testing import cases, run_check
from shapcut_adapters.mamba_ssm.adapter import MambaSSMAdapter
from shapcut_adapters.rwkv7_hf.adapter import Rwkv7HfAdapter
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

CHECK = "projections-are-added"

FOLDABLE = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "granite": ("self_attn.o_proj", "mlp.down_proj"),
    "mixtral": ("self_attn.o_proj",),
    "rwkv": ("attention.output",),
    "mamba2": ("mixer.out_proj",),
    "falcon_h1": ("mamba.out_proj", "self_attn.o_proj", "feed_forward.down_proj"),
    "gemma2": (),
    "doge": (),
}


def first_block(adapter: Adapter, name: str) -> tuple[str, tuple[OutputProjection, ...]]:
    model = adapter.canonicalise(adapter.examples()[name](0)[0])
    player = adapter.players(model)[0]
    return f"{player.name}.", adapter.output_projections(model, player)


@pytest.mark.parametrize("name", FOLDABLE)
def test_a_family_offers_its_linear_projections(name: str) -> None:
    adapter = HFDecoderAdapter()
    prefix, declared = first_block(adapter, name)
    assert tuple(each.module.removeprefix(prefix) for each in declared if each.linear) == FOLDABLE[name]
    case = next(case for case in cases(adapter, only=[name]) if case.granularity == "block")
    result = run_check(case, CHECK)
    assert result.passed, result.detail


def test_experts_with_biases_take_a_constant() -> None:
    prefix, declared = first_block(HFDecoderAdapter(), "gpt_oss")
    assert [each.bias.removeprefix(prefix) for each in declared] == ["", "mlp.experts.down_proj_bias"]
    (case,) = (each for each in cases(HFDecoderAdapter(), only=["gpt_oss"]) if each.granularity == "block")
    assert run_check(case, CHECK).passed


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo2", "glm4"])
def test_what_a_norm_ends_is_named_with_the_map_before_it(name: str) -> None:
    prefix, declared = first_block(HFDecoderAdapter(), name)
    assert [each.normed.removeprefix(prefix) for each in declared] == ["self_attn.o_proj", "mlp.down_proj"]
    assert not any(each.linear for each in declared)
    (case,) = (each for each in cases(HFDecoderAdapter(), only=[name]) if each.granularity == "block")
    result = run_check(case, CHECK)
    assert result.passed, result.detail


@pytest.mark.parametrize("other", ["self_attn.v_proj", "self_attn.o_proj", "post_feedforward_layernorm"])
def test_a_norm_of_something_else_fails_the_check(other: str) -> None:
    def change(found: tuple[OutputProjection, ...]) -> tuple[OutputProjection, ...]:
        attention, mlp = found
        block = mlp.module.rpartition(".")[0]
        return (attention, replace(mlp, normed=f"{block}.{other}"))

    (case,) = (each for each in cases(Wrong(change), only=["gemma2"]) if each.granularity == "block")
    result = run_check(case, CHECK)
    assert not result.passed
    assert other in result.detail


def test_a_bias_of_another_module_fails_the_check() -> None:
    def change(found: tuple[OutputProjection, ...]) -> tuple[OutputProjection, ...]:
        attention, mixture = found
        return (attention, replace(mixture, bias=f"{attention.module}.bias"))

    (case,) = (each for each in cases(Wrong(change), only=["gpt_oss"]) if each.granularity == "block")
    result = run_check(case, CHECK)
    assert not result.passed
    assert "self_attn.o_proj.bias is not added to the stream" in result.detail


def test_other_libraries_offer_theirs() -> None:
    assert [each.module for each in first_block(Rwkv7HfAdapter(), "rwkv7-hf")[1]] == [
        "model.layers.0.attn.o_proj",
        "model.layers.0.ffn.value",
    ]
    assert [each.module for each in first_block(MambaSSMAdapter(), "mamba")[1]] == [
        "backbone.layers.0.mixer.out_proj"
    ]
    for adapter in (Rwkv7HfAdapter(), MambaSSMAdapter()):
        for case in cases(adapter):
            result = run_check(case, CHECK)
            assert result.passed, result.detail


def test_a_factor_and_a_transposed_weight_are_found() -> None:
    _, granite = first_block(HFDecoderAdapter(), "granite")
    assert [each.factor for each in granite] == pytest.approx([0.7, 0.7], rel=1e-4)
    assert all(each.transposed for each in first_block(HFDecoderAdapter(), "gpt2")[1])


class Wrong(HFDecoderAdapter):
    """Declares something else."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self._change = change

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        found = super().output_projections(model, player)
        return self._change(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found[:1], "adds something else"),
        (lambda found: tuple(replace(each, factor=0.9) for each in found), "adds something else"),
        (
            lambda found: (*found, replace(found[0], module="model.layers.5.mlp.gate_proj")),
            "does not run once",
        ),
        (lambda found: tuple(replace(e, module=e.module.replace(".down_proj", "")) for e in found), "weight"),
    ],
)
def test_a_wrong_declaration_fails_the_check(change: Any, problem: str) -> None:
    case = next(each for each in cases(Wrong(change), only=["llama"]) if each.granularity == "block")
    result = run_check(case, CHECK)
    assert not result.passed
    assert problem in result.detail
