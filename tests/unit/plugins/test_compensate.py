"""The step that mends a cut without training."""

import copy
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shapcut.game.coalitions import without
from shapcut.game.mixed import mixed_layers
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.models.adapter import Adapter, CheckpointForm
from shapcut.steps.compensated_game import MendedGame
from shapcut.steps.step import StepContext
from shapcut.support.errors import InputError
from shapcut.valuation.model_game import ModelGame
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.compensate.cut_blocks import CutBlocks
from shapcut_plugins.compensate.regression import Moments, fit, regress
from shapcut_plugins.compensate.step import Compensate

ADAPTER = HFDecoderAdapter()


def windows(length: int) -> Tensor:
    return torch.randint(3, 96, (64, length), generator=torch.Generator().manual_seed(1))


def context(adapter: Adapter, plan: RemovalPlan, original: nn.Module, directory: Path) -> StepContext:
    return StepContext(
        adapter=adapter,
        plan=plan,
        calibration=windows(12)[:4],
        tokenizer=None,
        directory=directory,
        seed=0,
        original=lambda: original,
        windows=windows,
    )


def cut(name: str, removed: Collection[int]) -> tuple[Any, Any, RemovalPlan]:
    """The original, the pruned model, the plan."""
    original = ADAPTER.canonicalise(ADAPTER.examples()[name](0)[0]).requires_grad_(requires_grad=False)
    plan = RemovalPlan.removing(sorted(removed), len(ADAPTER.players(original)))
    return original, ADAPTER.remove(copy.deepcopy(original), plan.removed), plan


def test_a_projection_that_no_ridge_improves_is_written_as_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(texts: Any, held: Moments, penalised: Tensor) -> Any:
        return fit(texts, held, penalised, ridges=())

    monkeypatch.setattr("shapcut_plugins.compensate.walk.fit", nothing)
    original, pruned, plan = cut("llama", {1, 2})
    Compensate().run(pruned, context(ADAPTER, plan, original, tmp_path))
    written = json.loads((tmp_path / "compensation.json").read_text())
    assert {each["ridge"] for each in written["projections"]} == {None}


def distance(one: nn.Module, other: nn.Module) -> float:
    ids = windows(12)[:8]
    return float((ADAPTER.logits(one, ids) - ADAPTER.logits(other, ids)).square().mean())


def stream_error(original: nn.Module, pruned: nn.Module, blocks: int, pruned_blocks: int) -> float:
    """How far the streams after so many blocks are apart, on other tokens, by the norm of the target."""
    ids = torch.randint(3, 96, (16, 12), generator=torch.Generator().manual_seed(2))
    streams = []
    for model, depth in ((original, blocks), (pruned, pruned_blocks)):
        stack = ADAPTER.stack(model)
        assert stack is not None
        state = stack.prelude(ids)
        for index in range(depth):
            state = stack.step(index, state)
        streams.append(stack.stream(state).flatten(0, 1).float())
    return float(((streams[0] - streams[1]).norm(dim=1) / streams[0].norm(dim=1)).square().mean())


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same arithmetic on every machine."""
    monkeypatch.setattr("shapcut.valuation.precision.has_fast_bfloat16", lambda device: False)


def some_moments(tokens: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn((tokens, 7), generator=generator)
    errors = given @ torch.randn((7, 3), generator=generator) + 0.1 * torch.randn(
        (tokens, 3), generator=generator
    )
    return given, errors, torch.rand(tokens, generator=generator) + 0.5


def moments_of(*parts: tuple[Tensor, Tensor, Tensor]) -> Moments:
    sums = Moments(7, 3, torch.device("cpu"))
    for part in parts:
        sums.add(*part)
    return sums


def test_moments_in_parts_are_moments_at_once() -> None:
    given, errors, weights = some_moments()
    whole = moments_of((given, errors, weights))
    parts = moments_of(*zip(given.split(33), errors.split(33), weights.split(33), strict=True))
    torch.testing.assert_close(parts.second, whole.second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.cross, whole.cross, rtol=1e-5, atol=1e-5)
    assert parts.error == pytest.approx(whole.error)
    assert parts.tokens == whole.tokens == 200


def test_regression_is_the_weighted_least_squares_solution() -> None:
    given, errors, weights = some_moments()
    found = regress(moments_of((given, errors, weights)), 0.0, torch.ones(7, dtype=torch.float64))
    roots = weights.sqrt()[:, None]
    expected = torch.linalg.lstsq(given * roots, errors * roots).solution
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_the_error_after_a_change_is_the_error_of_the_changed_map() -> None:
    given, errors, weights = some_moments()
    change = torch.randn((7, 3), generator=torch.Generator().manual_seed(5))
    expected = ((errors - given @ change).square().sum(1) * weights).sum()
    found = moments_of((given, errors, weights)).error_after(change.double())
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_a_large_ridge_changes_nothing() -> None:
    sums = moments_of(some_moments())
    ones = torch.ones(7, dtype=torch.float64)
    assert float(regress(sums, 1e12, ones).abs().max()) < 1e-9
    assert not regress(sums, float("inf"), ones).any()


def test_where_no_ridge_helps_nothing_changes() -> None:
    given, errors, weights = some_moments()
    found = fit(
        [moments_of((given, errors, weights))],
        moments_of((given, -errors, weights)),
        torch.ones(7, dtype=torch.float64),
        ridges=(1.0, 1e-3),
    )
    assert found.ridge == float("inf")
    assert found.after == 1.0
    assert not found.change.any()


@pytest.mark.parametrize("into", ["mlp", "attention", "both"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "granite", "gemma2", "olmo2"])
def test_the_compensated_model_is_nearer_to_the_original(name: str, into: Any, tmp_path: Path) -> None:
    original, pruned, plan = cut(name, [2, 3])
    before = stream_error(original, pruned, 4, 2)
    names = set(pruned.state_dict())
    step = Compensate(into, "cut", samples=64, trial=False)
    step.check(original, ADAPTER)
    mended = step.run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert stream_error(original, mended, 4, 2) < before
    assert set(mended.state_dict()) == names
    fitted = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert {each["block"] for each in fitted} == {1}
    assert all(each["error"] < 1 for each in fitted)


def linear_block(model: Any, index: int) -> None:
    """Let a block add nothing, so that cutting it and doubling another block's part can be undone exactly."""
    for module in (model.model.layers[index].self_attn.o_proj, model.model.layers[index].mlp.down_proj):
        nn.init.zeros_(module.weight)


def test_what_is_linear_in_the_inner_activations_is_recovered_exactly(tmp_path: Path) -> None:
    """The pruned model's weight is spoilt; the original's is the answer that the regression must find."""
    original, _, plan = cut("llama", [2])
    linear_block(original, 2)
    pruned: Any = ADAPTER.remove(copy.deepcopy(original), plan.removed)
    assert distance(pruned, original) < 1e-10
    spoilt = pruned.model.layers[1].mlp.down_proj.weight
    spoilt.mul_(0.3)
    before = distance(pruned, original)
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert distance(pruned, original) < 1e-4 * before


def test_a_map_before_a_norm_is_recovered_where_the_norm_of_its_output_hardly_changes(tmp_path: Path) -> None:
    original, _, plan = cut("gemma2", [2])
    for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
        nn.init.constant_(
            original.model.layers[2].get_submodule(norm).weight, -1.0
        )  # it multiplies by 1 more
    pruned: Any = ADAPTER.remove(copy.deepcopy(original), plan.removed)
    assert distance(pruned, original) < 1e-10
    spoilt = pruned.model.layers[1].mlp.down_proj.weight
    noise = torch.randn(spoilt.shape, generator=torch.Generator().manual_seed(5))
    spoilt.add_(0.1 * spoilt.std() * noise)
    before = distance(pruned, original)
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert distance(pruned, original) < 0.05 * before
    (fitted,) = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert fitted["module"] == "model.layers.1.mlp.down_proj"


def test_what_experts_give_to_every_token_becomes_a_constant(tmp_path: Path) -> None:
    """The block that goes adds the same vector everywhere; the experts before it have biases to add it to."""
    original = ADAPTER.canonicalise(ADAPTER.examples()["gpt_oss"](0)[0]).requires_grad_(requires_grad=False)
    block = original.model.layers[2]
    for weight in (block.self_attn.o_proj.weight, block.self_attn.o_proj.bias, block.mlp.experts.down_proj):
        nn.init.zeros_(weight)
    vector = torch.randn(
        block.mlp.experts.down_proj_bias.shape[-1], generator=torch.Generator().manual_seed(5)
    )
    block.mlp.experts.down_proj_bias.copy_(vector)
    plan = RemovalPlan.removing([2], len(ADAPTER.players(original)))
    pruned = ADAPTER.remove(copy.deepcopy(original), plan.removed)
    before, biases = distance(pruned, original), pruned.model.layers[1].mlp.experts.down_proj_bias
    expected = biases + vector
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert distance(pruned, original) < 1e-4 * before
    torch.testing.assert_close(biases.data, expected, rtol=1e-3, atol=1e-3)
    (fitted,) = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert fitted["module"] == "model.layers.1.mlp.experts.down_proj_bias"


def test_all_places_are_mended_from_the_first_cut_on(tmp_path: Path) -> None:
    original, pruned, plan = cut("llama", [2])
    untouched = copy.deepcopy(pruned.model.layers[0].state_dict())
    Compensate("mlp", "all", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    fitted = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert [each["block"] for each in fitted] == [1, 3, 4, 5]
    assert all(
        torch.equal(value, untouched[name]) for name, value in pruned.model.layers[0].state_dict().items()
    )


def test_a_cut_at_the_beginning_is_mended_in_the_first_block_that_stays(tmp_path: Path) -> None:
    original, pruned, plan = cut("llama", [0, 1])
    before = stream_error(original, pruned, 3, 1)
    embedding = pruned.get_input_embeddings().weight.clone()
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert json.loads((tmp_path / "compensation.json").read_text())["projections"][0]["block"] == 2
    assert stream_error(original, pruned, 3, 1) < before
    assert torch.equal(pruned.get_input_embeddings().weight, embedding)


def test_the_number_format_stays(tmp_path: Path) -> None:
    original, _, plan = cut("llama", [2, 3])
    original = original.to(torch.bfloat16)
    pruned = ADAPTER.remove(copy.deepcopy(original), plan.removed)
    before = stream_error(original, pruned, 4, 2)
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.bfloat16}
    assert stream_error(original, pruned, 4, 2) < before


def test_a_model_whose_blocks_end_in_nothing_linear_is_refused() -> None:
    model, _ = ADAPTER.examples()["doge"](0)
    with pytest.raises(InputError, match="no block of DogeForCausalLM ends in a linear map"):
        Compensate().check(model, ADAPTER)


def test_what_does_not_help_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapcut_plugins.compensate.walk.SHARES", ())
    original, pruned, plan = cut("gpt2", [2, 3])
    weights = copy.deepcopy(pruned.state_dict())
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    assert all(torch.equal(value, weights[name]) for name, value in pruned.state_dict().items())
    (fitted,) = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert (fitted["ridge"], fitted["share"], fitted["error"]) == (None, 0.0, 1.0)


def test_a_gated_network_is_left_alone_and_the_mixer_before_it_is_fitted(tmp_path: Path) -> None:
    original, pruned, plan = cut("rwkv", [2, 3])
    Compensate("mlp", "cut", samples=64, trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    (fitted,) = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert fitted["module"] == "rwkv.blocks.1.attention.output"
    assert fitted["error"] <= 1


def test_options_are_checked() -> None:
    postprocessors = build_host().postprocessors
    assert isinstance(postprocessors.create("compensate:into=both,places=all,samples=32"), Compensate)
    with pytest.raises(InputError, match="samples=1: at least 2"):
        postprocessors.create("compensate:samples=1")
    with pytest.raises(InputError, match="into='ffn'"):
        postprocessors.create("compensate:into=ffn")


def test_a_game_of_mended_models_values_what_the_step_leaves(tmp_path: Path) -> None:
    original, pruned, plan = cut("llama", [2, 3])
    game = ModelGame(original, ADAPTER, windows(12)[:6], dtype="float32")
    mended = MendedGame(
        game, [("compensate", Compensate("mlp", "cut", samples=64, trial=False))], windows, seed=0
    )
    coalitions = without(6, [[2, 3], []])
    values = mended.values(coalitions)
    assert values[1] == pytest.approx(float(game.values(coalitions)[1]), abs=1e-5)
    model = Compensate("mlp", "cut", samples=64, trial=False).run(
        pruned, context(ADAPTER, plan, original, tmp_path)
    )
    expected = ModelGame(model, ADAPTER, windows(12)[:6], dtype="float32").values(without(4, [[]]))
    assert values[0] == pytest.approx(float(expected[0]), abs=1e-5)
    assert abs(values[0] - game.values(coalitions)[0]) > 1e-3
    assert mended.fingerprint() != game.fingerprint()


@pytest.mark.parametrize(("family", "into"), [("qwen3_moe", "mlp"), ("gpt_oss", "both")])
def test_blocks_that_lost_experts_are_fitted_and_the_streams_come_closer(
    family: str, into: Any, tmp_path: Path
) -> None:
    original = ADAPTER.examples()[family](0)[0].requires_grad_(requires_grad=False)
    players = ADAPTER.players(original, "expert")
    groups = [
        [player.index for player in players if player.group == one] for one in {p.group for p in players}
    ]
    removed = sorted(index for members in groups for index in members[: len(members) // 2])
    plan = RemovalPlan.removing(removed, len(players), granularity="expert")
    pruned = ADAPTER.remove(copy.deepcopy(original), removed, "expert")
    blocks, before = len(ADAPTER.players(original)), copy.deepcopy(pruned)
    Compensate(into, "cut", trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    written = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert {each["block"] for each in written} == {player.group for player in players}
    assert any(each["ridge"] is not None for each in written)
    errors = [stream_error(original, model, blocks, blocks) for model in (before, pruned)]
    assert errors[1] < errors[0]


def test_changes_that_do_not_lower_the_loss_are_undone(tmp_path: Path) -> None:
    """The pruned model has written the text itself, so that every change does harm."""
    original, pruned, plan = cut("llama", [2, 3])
    before = copy.deepcopy(pruned.state_dict())
    written = ADAPTER.generate(pruned, windows(2), 10, use_cache=True)
    where = replace(context(ADAPTER, plan, original, tmp_path), windows=lambda _: written)
    Compensate(samples=64).run(pruned, where)
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())
    found = json.loads((tmp_path / "compensation.json").read_text())
    assert found["scale"] == 0.0
    assert [trial["text"]["ratio"] > 1 for trial in found["held_back"]] == [True, True]
    assert any(each["ridge"] is not None for each in found["projections"])


def test_a_ridge_is_chosen_by_what_transfers_to_another_text() -> None:
    """Three inputs predict the errors of all texts, the others by chance in each."""
    generator = torch.Generator().manual_seed(3)
    shared, ones = torch.randn((7, 3), generator=generator) * 0.1, torch.ones(7, dtype=torch.float64)
    texts = []
    for _ in range(2):
        own = shared + 0.3 * torch.randn((7, 3), generator=generator)
        given = torch.randn((200, 7), generator=generator)
        texts.append(moments_of((given, given @ own, torch.ones(200))))
    within = [fit([text], text, ones) for text in texts]
    across = fit(texts, texts[0], ones)
    assert across.ridge > max(each.ridge for each in within)
    assert across.after > max(each.after for each in within)


def test_many_outputs_are_compared_on_a_projection_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    true, ones = torch.randn((7, 200), generator=generator), torch.ones(7, dtype=torch.float64)
    sums = []
    for _ in range(2):
        given = torch.randn((300, 7), generator=generator)
        sums.append(Moments(7, 200, torch.device("cpu")))
        noise = torch.randn((300, 200), generator=generator)
        sums[-1].add(given, given @ true + noise, torch.ones(300))
    found = fit(sums, sums[0], ones)
    monkeypatch.setattr("shapcut_plugins.compensate.regression._SKETCH", 200)
    exact = fit(sums, sums[0], ones)
    assert found.ridge == exact.ridge
    assert found.after != exact.after
    assert found.after == pytest.approx(exact.after, rel=0.25)


@pytest.mark.parametrize(
    ("removed", "form", "fitted"),
    [
        pytest.param([3, 4], "same", {1}, id="an MLP and the next attention"),
        pytest.param([3, 7], "sibling", {1, 3}, id="two MLPs"),
        pytest.param([2, 8, 9], "remote-code", {0, 3}, id="an attention and a block"),
        pytest.param([0, 6], "remote-code", {1, 2}, id="the first attention and another"),
    ],
)
def test_blocks_that_lost_a_half_are_fitted(
    removed: list[int], form: CheckpointForm, fitted: set[int], tmp_path: Path
) -> None:
    original = ADAPTER.examples()["llama"](0)[0].requires_grad_(requires_grad=False)
    blocks = len(ADAPTER.players(original))
    plan = RemovalPlan.removing(removed, 2 * blocks, granularity="sublayer", form=form)
    pruned = ADAPTER.remove_as(copy.deepcopy(original), removed, "sublayer", form)
    left, before = len(ADAPTER.players(pruned)), copy.deepcopy(pruned)
    Compensate(trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    written = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert {each["block"] for each in written} == fitted
    assert any(each["ridge"] is not None for each in written)
    errors = [stream_error(original, model, blocks, left) for model in (before, pruned)]
    assert errors[1] < errors[0]


def test_a_mixed_cut_is_fitted_wherever_something_went(tmp_path: Path) -> None:
    """A block, the MoE part of another, and an expert of each other layer that has some."""
    original = ADAPTER.examples()["qwen3_moe"](0)[0].requires_grad_(requires_grad=False)
    players = ADAPTER.players(original, "mixed")
    layers = mixed_layers(players)
    removed = [*layers[1].players, *layers[3].mixture]
    removed += [one for place in (0, 2, 5) for one in layers[place].experts[:1]]
    plan = RemovalPlan.removing(sorted(removed), len(players), granularity="mixed", form="sibling")
    pruned = ADAPTER.remove_as(copy.deepcopy(original), removed, "mixed", "sibling")
    before = copy.deepcopy(pruned)
    Compensate(trial=False).run(pruned, context(ADAPTER, plan, original, tmp_path))
    written = json.loads((tmp_path / "compensation.json").read_text())["projections"]
    assert {each["block"] for each in written} == {0, 2, 3, 5}
    errors = [stream_error(original, model, len(layers), len(layers) - 1) for model in (before, pruned)]
    assert errors[1] < errors[0]


def test_players_that_do_not_say_where_blocks_begin_are_refused() -> None:
    with pytest.raises(InputError, match="4 blocks are left, and the players do not say where each"):
        CutBlocks.of([range(2), range(2, 4), range(4, 6)], [1], 4)
