"""The game of a model: number formats, fingerprints, utilities of both kinds."""

import copy

import numpy as np
import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from shapcut.api import load_game
from shapcut.game.coalitions import all_coalitions, without
from shapcut.support.errors import InputError
from shapcut.valuation import precision as arithmetic
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.evaluator import Work
from shapcut.valuation.model_game import ModelGame, model_fingerprint
from shapcut.valuation.prefix_tree import CoalitionEvaluator
from shapcut.valuation.utilities import KullbackLeibler, ModelUtility, PerplexityRatio, TokenUtility
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

IDS = torch.arange(2, 26).view(2, 12)
ROWS = without(6, [(), (0,), (2, 3), (5,)])


@pytest.fixture
def game(tiny_llama_model, llama_adapter):
    return ModelGame(tiny_llama_model, llama_adapter, IDS, dtype="float32")


def count_of_layers(model):
    return float(len(model.model.layers))


def test_log_likelihood_is_the_models_own_loss(game):
    loss = game.model(input_ids=IDS, labels=IDS).loss.item()
    values = game.values(ROWS)
    assert values[0] == pytest.approx(-loss, abs=1e-5)
    assert len(set(values.tolist())) == 4
    assert game.n_players == 6
    assert isinstance(game.evaluator, BypassEvaluator)


@pytest.mark.parametrize("utility", [None, PerplexityRatio(), KullbackLeibler()])
def test_fast_path_and_bypass_agree(game, utility):
    slow = ModelGame(game.model, game.adapter, IDS, utility=utility, dtype="float32")
    fast = ModelGame(game.model, HFDecoderAdapter(), IDS, utility=utility, dtype="float32")
    assert fast.values(ROWS) == pytest.approx(slow.values(ROWS), abs=1e-5)
    assert isinstance(fast.evaluator, CoalitionEvaluator)
    assert fast.work.coalitions == slow.work.coalitions == 4


def test_evaluating_changes_neither_model_nor_work_before_it_begins(game):
    before = {name: tensor.clone() for name, tensor in game.model.state_dict().items()}
    game.dtype = torch.bfloat16
    assert game.work == Work()
    game.values(ROWS)
    after = game.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert game._evaluated_model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("requested", "own", "fast", "expected"),
    [
        ("auto", torch.float32, True, torch.bfloat16),
        ("auto", torch.float32, False, torch.float32),
        ("auto", torch.float16, True, torch.float16),
        ("auto", torch.bfloat16, False, torch.bfloat16),
        ("float32", torch.bfloat16, True, torch.float32),
        ("float16", torch.float32, False, torch.float16),
    ],
)
def test_number_format(monkeypatch, tiny_llama_model, llama_adapter, requested, own, fast, expected):
    monkeypatch.setattr(arithmetic, "has_fast_bfloat16", lambda device: fast)
    game = ModelGame(tiny_llama_model.to(own), llama_adapter, IDS, dtype=requested)
    assert game.dtype == expected
    assert game._evaluated_model.dtype == expected
    assert (game._evaluated_model is game.model) == (expected == own)
    assert game.fingerprint()["dtype"] == str(expected).removeprefix("torch.")


def test_a_model_that_cannot_run_in_bf16_is_evaluated_in_its_own_format(monkeypatch):
    """Torch multiplies packed experts only in rows of whole 16 bytes; here they have 20 numbers."""
    monkeypatch.setattr(arithmetic, "has_fast_bfloat16", lambda device: True)
    config = Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=20, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config).eval().requires_grad_(requires_grad=False)
    game = ModelGame(model, HFDecoderAdapter(), IDS)
    assert game.dtype == torch.float32
    assert np.isfinite(game.values(np.ones((1, 3), dtype=np.bool_))).all()
    with pytest.raises(InputError, match="--dtype bfloat16 is unavailable: torch cannot multiply"):
        ModelGame(model, HFDecoderAdapter(), IDS, dtype="bfloat16")


class Likely(TokenUtility):
    name = "likely"
    measure = "log-likelihood"

    def value(self, means, full_mean):
        return means - full_mean


def test_a_utility_of_an_unknown_measure_is_refused(tiny_llama_model, llama_adapter):
    with pytest.raises(
        InputError, match="utility 'likely' has the measure 'log-likelihood'; use one of nll, kl"
    ):
        ModelGame(tiny_llama_model, llama_adapter, IDS, utility=Likely())


@pytest.mark.parametrize(
    "coalitions",
    [
        pytest.param(np.ones((1, 9), dtype=np.bool_), id="more columns than players"),
        pytest.param(np.ones((1, 5), dtype=np.bool_), id="fewer"),
        pytest.param(np.ones(6, dtype=np.bool_), id="one dimension"),
        pytest.param(np.array([[0, 1, 2, 3, 4, 5]]), id="numbers of players"),
        pytest.param([[1.0] * 6], id="a list of floats"),
    ],
)
def test_only_boolean_matrices_are_coalitions(game, coalitions):
    with pytest.raises(
        InputError, match="a boolean matrix with 6 columns is needed, True where the player stays"
    ):
        game.values(coalitions)


def test_an_unknown_number_format_is_refused(tiny_llama_model, llama_adapter):
    with pytest.raises(InputError, match="--dtype int8 is not supported"):
        ModelGame(tiny_llama_model, llama_adapter, IDS, dtype="int8")


def test_a_users_function_sees_the_model_as_it_was_loaded(monkeypatch, tiny_llama_model, llama_adapter):
    monkeypatch.setattr(arithmetic, "has_fast_bfloat16", lambda device: True)
    seen = []

    def function(model):
        seen.append(model.dtype)
        return 1.0

    for dtype in ("auto", "bfloat16"):
        game = ModelGame(
            tiny_llama_model, llama_adapter, IDS, utility=ModelUtility(function, "f"), dtype=dtype
        )
        game.values(ROWS[:1])
        assert game.fingerprint()["dtype"] == str(seen[-1]).removeprefix("torch.")
    assert set(seen[:2]) == {torch.float32}
    assert set(seen[2:]) == {torch.bfloat16}


def test_model_utility_is_called_with_the_absent_bypassed(tiny_llama_model, llama_adapter):
    utility = ModelUtility(count_of_layers, "layers")
    game = ModelGame(tiny_llama_model, llama_adapter, IDS, utility=utility)
    rows = all_coalitions(6)
    assert game.values(rows).tolist() == rows.sum(axis=1).tolist()
    assert count_of_layers(game.model) == 6
    assert game.fingerprint()["utility"] == "layers"
    with pytest.raises(TypeError, match="called on the model itself"):
        _ = game.evaluator


def test_a_model_that_cannot_be_measured_is_refused(game):
    with torch.no_grad():
        game.model.model.layers[3].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="loss on the calibration text is nan"):
        game.values(ROWS)
    with pytest.raises(InputError, match="whole model's score is inf"):
        ModelGame(
            game.model, game.adapter, IDS, utility=ModelUtility(lambda _: float("inf"), "score")
        ).values(ROWS)


def test_a_coalition_that_cannot_be_measured_is_not_finite(game):
    game.values(ROWS[:1])
    with torch.no_grad():
        game.model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    assert np.isfinite(game.values(ROWS)).tolist() == [False, False, True, False]


def test_on_other_tokens(game):
    game.dtype = torch.bfloat16
    first = game.values(ROWS)
    other_ids = torch.arange(40, 88).view(3, 16)
    other = game.on(other_ids)
    expected = ModelGame(game.model, game.adapter, other_ids, dtype="bfloat16")
    assert other.values(ROWS).tolist() == expected.values(ROWS).tolist()
    assert game.values(ROWS).tolist() == first.tolist()
    assert other._evaluated_model is game._evaluated_model
    assert game.input_ids.shape == (2, 12)
    assert other.work.coalitions == 4
    changed = {key for key, value in other.fingerprint().items() if value != game.fingerprint()[key]}
    assert changed == {"data", "tokens"}


@pytest.mark.parametrize(("utility", "whole"), [(None, 0), (PerplexityRatio(), 6), (KullbackLeibler(), 6)])
def test_a_game_that_does_not_check_the_model_measures_it_only_where_values_need_it(
    tiny_llama_model, utility, whole
):
    game = ModelGame(tiny_llama_model, HFDecoderAdapter(), IDS, utility=utility, dtype="float32")
    unchecked = game.on(IDS, checks_model=False)
    alone = without(6, [(0, 1, 2, 3, 4)])
    assert unchecked.values(alone).tolist() == game.values(alone).tolist()
    assert game.work.block_runs == 6 + 1
    assert unchecked.work.block_runs == whole + 1


def test_permits_what_the_adapter_can_remove(game):
    assert game.permits([0, 1])
    assert not game.permits(range(6))


def test_fingerprint_names_everything_that_values_depend_on(game, tiny_llama_model, llama_adapter):
    def changed(**options):
        settings = {"input_ids": IDS, "dtype": "float32"} | options
        other = ModelGame(tiny_llama_model, llama_adapter, **settings).fingerprint()
        return {key for key, value in other.items() if value != game.fingerprint()[key]}

    assert changed() == set()
    assert changed(dtype="bfloat16") == {"dtype"}
    assert changed(input_ids=IDS.flip(0)) == {"data"}
    assert changed(input_ids=IDS.view(4, 6)) == {"tokens"}
    assert changed(utility=KullbackLeibler()) == {"utility"}
    assert changed(granularity="sublayer") == {"granularity"}
    with torch.no_grad():
        tiny_llama_model.model.layers[4].mlp.down_proj.weight[0, 0] += 1e-3
    before = model_fingerprint(tiny_llama_model)
    assert before != game.fingerprint()["model"]  # which is of the model as it was handed over
    assert model_fingerprint(copy.deepcopy(tiny_llama_model)) == before
    tiny_llama_model.config.rope_theta_of_a_test = 2.0
    assert model_fingerprint(tiny_llama_model) != before


def test_model_fingerprint_follows_weights_but_not_the_library_version(tiny_llama_model):
    first = model_fingerprint(tiny_llama_model)
    tiny_llama_model.config.transformers_version = "0.0.1"
    original = type(tiny_llama_model.config).to_dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(tiny_llama_model.config),
            "to_dict",
            lambda config: {**original(config), "transformers_version": "99.0"},
        )
        assert model_fingerprint(tiny_llama_model) == first
    with torch.no_grad():
        tiny_llama_model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-3
    assert model_fingerprint(tiny_llama_model) != first


def test_model_fingerprint_survives_saving(tiny_llama_directory, llama_adapter):
    first, second = (llama_adapter.load(tiny_llama_directory) for _ in range(2))
    assert model_fingerprint(first) == model_fingerprint(second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_model_fingerprint_sees_every_element(dtype):
    layer = torch.nn.Module()
    layer.register_buffer("weight", torch.zeros(65, 128).to(dtype))
    seen = {model_fingerprint(layer)}
    for row, column in ((0, 1), (1, 0), (33, 127), (64, 64)):
        layer.weight = (
            torch.zeros(65, 128)
            .index_put((torch.tensor(row), torch.tensor(column)), torch.ones(()))
            .to(dtype)
        )
        seen.add(model_fingerprint(layer))
    layer.weight = layer.weight.T.contiguous()
    seen.add(model_fingerprint(layer))
    assert len(seen) == 6


def test_model_fingerprint_is_of_values_not_of_strides():
    plain, turned = torch.nn.Module(), torch.nn.Module()
    plain.register_buffer("weight", torch.arange(12.0).view(3, 4))
    turned.register_buffer("weight", torch.arange(12.0).view(3, 4).T.contiguous().T)
    assert model_fingerprint(plain) == model_fingerprint(turned)


def test_values_belong_to_the_versions_that_made_them(game, monkeypatch):
    before = game.fingerprint()
    assert {"shapcut", "torch", "transformers", "device"} <= before.keys()
    monkeypatch.setattr("shapcut.valuation.model_game.metadata.version", lambda name: f"{name} 9+build")
    changed = {key for key, value in game.fingerprint().items() if value != before[key]}
    assert changed == {"shapcut", "torch", "transformers"}
    assert game.fingerprint()["torch"] == "torch 9"


def test_from_pretrained(tiny_llama_directory):
    game = load_game(str(tiny_llama_directory), samples=2, sequence_length=16, utility=count_or_zero)
    assert game.input_ids.shape == (2, 16)
    assert game.values(ROWS).tolist() == [6.0] * 4
    assert game.fingerprint()["utility"] == "count_or_zero"


def count_or_zero(model):
    return float(model.config.num_hidden_layers)


def test_a_game_on_other_tokens_shares_the_converted_model(tiny_llama_model, monkeypatch):
    first = ModelGame(tiny_llama_model, HFDecoderAdapter(), IDS, dtype="bfloat16")
    copies = []
    deepcopy = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda *given: copies.append(given) or deepcopy(*given))
    second = first.on(IDS[:1])
    assert copies == []
    assert second.values(ROWS)[0] != first.values(ROWS)[0]
    assert [given[0] for given in copies].count(tiny_llama_model) == 1


def test_the_fingerprint_counts_the_lowest_bits_of_packed_weights_and_no_scratch_buffers() -> None:
    layer = torch.nn.Module()
    layer.register_buffer("qweight", torch.full((4, 4), 2**30, dtype=torch.int32))
    layer.register_buffer("scratch", torch.zeros(4), persistent=False)
    before = model_fingerprint(layer)
    layer.scratch += 1
    assert model_fingerprint(layer) == before
    layer.qweight[0, 0] += 1
    assert model_fingerprint(layer) != before
