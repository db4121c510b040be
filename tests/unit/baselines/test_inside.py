"""The baselines that look inside a model, against straightforward computations by hooks and autograd."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know

from shapcut.baselines.angular import AngularSelector
from shapcut.baselines.blind import NoEstimator
from shapcut.baselines.block_influence import BlockInfluenceEstimator
from shapcut.baselines.taylor import TaylorEstimator
from shapcut.estimators.base import EstimationProblem
from shapcut.game.budget import BudgetedGame
from shapcut.game.game import FunctionGame
from shapcut.selection.base import SelectionProblem
from shapcut.support.errors import InputError
from shapcut.valuation.model_game import ModelGame
from shapcut_adapters.mamba_ssm.stack import MambaStack
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

IDS = torch.randint(2, 300, (5, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["stack", "hooks"])
def game(request, tiny_llama_model, llama_adapter):
    """The same model, once taken apart and once not: `llama_adapter` has no stack."""
    adapter = HFDecoderAdapter() if request.param == "stack" else llama_adapter
    return ModelGame(tiny_llama_model, adapter, IDS)


def streams(model):
    """What enters each block, and what leaves the last, by transformers' own account."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    last = seen[-1][1]
    return [before for before, _ in seen] + [last if isinstance(last, torch.Tensor) else last[0]]


def estimate(estimator, game):
    return estimator.estimate(EstimationProblem(game, 0, np.random.default_rng(0)))


def test_block_influence(game):
    counted = BudgetedGame(game, 0)
    found = estimate(BlockInfluenceEstimator(), counted)
    at = streams(game.model)
    cosines = [F.cosine_similarity(a.double(), b.double(), dim=-1) for a, b in pairwise(at)]
    assert found.values == pytest.approx([1 - float(c.mean()) for c in cosines], abs=1e-6)
    errors = [float(c.mean(dim=1).std() / math.sqrt(5)) for c in cosines]
    assert found.standard_errors == pytest.approx(errors, abs=1e-6)
    assert counted.cost.to_json() == {"evaluations": 0, "tokens": 60, "block_tokens": 360}
    assert found.evaluations == 0


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("keep_last", [True, False])
@pytest.mark.parametrize("n_remove", [1, 3, 5])
def test_angular(game, tokens, keep_last, n_remove):
    at = streams(game.model)
    if tokens == "last":
        at = [stream[:, -1:] for stream in at]
    distances = [
        float(
            (F.cosine_similarity(at[i].double(), at[i + n_remove].double(), dim=-1).acos() / math.pi).mean()
        )
        for i in range(7 - n_remove - keep_last)
    ]
    counted = BudgetedGame(game, 0)
    plan = AngularSelector(keep_last=keep_last, tokens=tokens).select(
        SelectionProblem(
            estimate(NoEstimator(), game), game.players, n_remove, game=counted, rng=np.random.default_rng(0)
        )
    )
    start = int(np.argmin(distances))
    assert plan.removed == tuple(range(start, start + n_remove))
    assert f"{distances[start]:.4f} of a half turn" in plan.reason
    assert f"of {len(distances)} runs" in plan.reason
    assert counted.cost.tokens == 60


def test_taylor(game, monkeypatch):
    monkeypatch.setattr("shapcut.baselines.taylor._TOKENS_PER_STEP", 24)  # three steps, one of them shorter
    counted = BudgetedGame(game, 0)
    found = estimate(TaylorEstimator(), counted)
    model = copy.deepcopy(game.model)
    model.requires_grad_(requires_grad=True)
    logits = model(input_ids=IDS).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    expected = [
        sum(float((p.detach() * p.grad).abs().sum()) for p in layer.parameters())
        for layer in model.model.layers
    ]
    assert found.values == pytest.approx(expected, rel=1e-4)
    assert counted.cost.to_json() == {"evaluations": 0, "tokens": 180, "block_tokens": 1080}
    for parameter in game.model.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_taylor_plus_keeps_both_ends(game):
    found = estimate(TaylorEstimator(keep_first=2, keep_last=1), game)
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [0, 1, 5]
    with pytest.raises(ValueError, match="neither can be negative"):
        TaylorEstimator(keep_first=-1)


def test_a_model_is_needed():
    game = FunctionGame(5, lambda rows: rows.sum(axis=1))
    for estimator in (BlockInfluenceEstimator(), TaylorEstimator()):
        with pytest.raises(InputError, match=f"estimator '{estimator.name}' looks inside the model"):
            estimate(estimator, game)
    with pytest.raises(InputError, match="selector 'angular' looks inside the model"):
        AngularSelector().select(
            SelectionProblem(
                estimate(NoEstimator(), game), game.players, 2, game=game, rng=np.random.default_rng(0)
            )
        )


def test_a_run_that_may_not_be_removed_is_passed_over(game):
    class Picky(BudgetedGame):
        def permits(self, absent):
            return list(absent) == [1, 2]

    plan = AngularSelector().select(
        SelectionProblem(
            estimate(NoEstimator(), game), game.players, 2, game=Picky(game, 0), rng=np.random.default_rng(0)
        )
    )
    assert plan.removed == (1, 2)
    with pytest.raises(InputError, match="no run of 3 neighbouring players may be removed"):
        AngularSelector().select(
            SelectionProblem(
                estimate(NoEstimator(), game),
                game.players,
                3,
                game=Picky(game, 0),
                rng=np.random.default_rng(0),
            )
        )


def test_the_stream_of_a_state_of_two_tensors_is_their_sum():
    state = (torch.ones(1, 2, 3), torch.full((1, 2, 3), 2.0))
    assert torch.equal(MambaStack.stream(None, state), torch.full((1, 2, 3), 3.0))


def test_a_model_game_is_narrowed_to_its_first_windows(game):
    assert game.narrowed(60) is game
    assert game.narrowed(10_000) is game
    narrow = game.narrowed(25)
    assert narrow.tokens == 24
    assert torch.equal(narrow.input_ids, IDS[:2])
    assert game.narrowed(1).tokens == 12
    row = np.ones((1, 6), dtype=bool)
    row[0, 3] = False
    alone = ModelGame(game.model, game.adapter, IDS[:2])
    assert narrow.values(row) == pytest.approx(alone.values(row))
    assert narrow.values(row) != pytest.approx(game.values(row))
