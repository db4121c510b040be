"""The estimators `surrogate` and `paper`, and what contributions say about themselves."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.network import NetworkSurrogate
from shapcut.estimators.paper import PaperEstimator
from shapcut.estimators.sampling import ShapleySampler
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.contributions import Contributions, Fidelity
from shapcut.game.game import FunctionGame
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut_plugins.report.charts.pairs import Pairs

N = 8
LINEAR = np.linspace(0.1, 0.8, N)


def quadratic(n=N, fixed=()):
    """Players 0 and 1 stand in for each other: only the absence of both hurts much."""

    def value(coalitions):
        absent = (~coalitions).astype(np.float64)
        return -absent @ LINEAR[:n] - 2.0 * absent[:, 0] * absent[:, 1]

    game = FunctionGame(n, value)
    game._players = tuple(replace(p, removable=p.index not in fixed) for p in game.players)
    return game


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def few_epochs(monkeypatch):
    fit = NetworkSurrogate.fit

    def short(self, coalitions, values):
        self.epochs = 3
        return fit(self, coalitions, values)

    monkeypatch.setattr(NetworkSurrogate, "fit", short)


@pytest.mark.parametrize("fixed", [(), (2, 5)])
def test_surrogate_finds_the_exact_shapley_values_of_a_quadratic_game(fixed):
    game = quadratic(fixed=fixed)
    exact = ExactEstimator().estimate(EstimationProblem(game, 256, rng()))
    found = SurrogateEstimator(focus=np.inf, share=1.0).estimate(
        EstimationProblem(game, 60, rng(), n_remove=4)
    )
    assert found.values == pytest.approx(exact.values, abs=0.1, nan_ok=True)
    assert (np.isnan(found.values) == np.isin(np.arange(N), fixed)).all()
    assert (np.isnan(found.standard_errors) == np.isnan(found.values)).all()
    assert found.coalitions[:, list(fixed)].all()
    assert found.fidelity.r_squared > 0.9
    assert found.evaluations == 60


def test_surrogate_spends_its_share_on_all_players_single_absences_and_the_neighbourhood():
    found = SurrogateEstimator().estimate(EstimationProblem(quadratic(), 60, rng(), n_remove=3))
    sizes = (~found.coalitions).sum(axis=1).tolist()
    assert sizes[:9] == [0] + [1] * 8
    assert len(sizes) == 30
    assert set(sizes[9:]) == {2, 3, 4}
    assert found.full_value == 0.0
    again = SurrogateEstimator().estimate(EstimationProblem(quadratic(), 60, rng(), n_remove=3))
    assert (found.values == again.values).all()


def test_surrogate_spends_all_if_nothing_is_to_be_removed():
    assert SurrogateEstimator().estimate(EstimationProblem(quadratic(), 60, rng())).evaluations == 60
    assert SurrogateEstimator(share=0.5).estimate(EstimationProblem(quadratic(), 60, rng())).evaluations == 30


def test_surrogate_of_single_absences_is_leave_one_out():
    found = SurrogateEstimator().estimate(EstimationProblem(quadratic(), 9, rng()))
    assert found.values == pytest.approx(LINEAR, abs=1e-3)


def test_surrogate_with_another_sampler_and_weighting():
    sampler = ShapleySampler()
    found = SurrogateEstimator(weighting="target", share=1.0, sampler=sampler, focus=np.inf).estimate(
        EstimationProblem(quadratic(), 80, rng(), n_remove=2)
    )
    expected = LINEAR.copy()
    expected[:2] += 2.0 * 2 / 8
    assert found.values == pytest.approx(expected, abs=0.1)
    assert "25% of the players absent" in found.weighting
    assert sampler.weighting in found.weighting


def test_surrogate_refuses_what_cannot_work():
    with pytest.raises(InputError, match="at least 9 coalitions, got 8"):
        SurrogateEstimator().estimate(EstimationProblem(quadratic(), 8, rng()))
    with pytest.raises(ValueError, match="share=0"):
        SurrogateEstimator(share=0.0)
    with pytest.raises(ValueError, match="focus=0"):
        SurrogateEstimator(focus=0.0)
    assert SurrogateEstimator().estimate(EstimationProblem(quadratic(), 9, rng())).evaluations == 9


@pytest.mark.usefixtures("few_epochs")
def test_paper_spends_the_budget_on_balanced_strata():
    game = FunctionGame(12, lambda rows: rows.mean(axis=1))
    found = PaperEstimator(surrogate_masks=60, bootstraps=2).estimate(EstimationProblem(game, 51, rng()))
    strata = Counter(found.coalitions.sum(axis=1).tolist())
    assert strata.pop(12) == 1
    assert sorted(strata) == [7, 8, 9, 10, 11]
    assert all(abs(count - 10) <= 1 for count in strata.values())
    assert found.full_value == 1.0
    assert found.evaluations == 51
    assert "not the Shapley weights" in found.weighting
    assert found.fidelity.coalitions == 50 - 10  # without those that lack a single player
    assert (found.standard_errors > 0).all()
    again = PaperEstimator(surrogate_masks=60, bootstraps=2).estimate(EstimationProblem(game, 51, rng()))
    assert (found.values == again.values).all()
    assert (found.standard_errors == again.standard_errors).all()


@pytest.mark.usefixtures("few_epochs")
def test_paper_says_nothing_of_players_that_cannot_be_absent():
    game = quadratic(fixed=[3])
    found = PaperEstimator(surrogate_masks=60, bootstraps=2).estimate(EstimationProblem(game, 40, rng()))
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [3]
    assert np.flatnonzero(np.isnan(found.standard_errors)).tolist() == [3]
    assert found.coalitions[:, 3].all()


def test_paper_ranks_the_players_of_an_additive_game(monkeypatch):
    fit = NetworkSurrogate.fit

    def in_small_batches(self, coalitions, values):
        self.batch_size = 16
        return fit(self, coalitions, values)

    monkeypatch.setattr(NetworkSurrogate, "fit", in_small_batches)
    monkeypatch.setattr("shapcut.estimators.paper.held_out_fidelity", lambda *_, **__: None)
    weights = np.linspace(0.0, 0.18, 10)
    game = FunctionGame(10, lambda rows: rows @ weights)
    found = PaperEstimator(surrogate_masks=500, bootstraps=0).estimate(EstimationProblem(game, 250, rng()))
    assert np.corrcoef(found.values, weights)[0, 1] > 0.9
    assert np.isnan(found.standard_errors).all()


@pytest.mark.usefixtures("few_epochs")
def test_paper_needs_masks():
    with pytest.raises(InputError, match="only 4 usable masks; raise --budget 5"):
        PaperEstimator().estimate(EstimationProblem(quadratic(), 5, rng()))


@pytest.mark.parametrize("fixed", [(), (3,)])
def test_contributions_as_json(tmp_path, fixed):
    found = SurrogateEstimator().estimate(EstimationProblem(quadratic(fixed=fixed), 30, rng()))
    content = found.to_json()
    write_json_atomically(tmp_path / "contributions.json", content)
    assert [player["player"] for player in content["players"]] == list(range(N))
    assert [p["value"] is None for p in content["players"]] == [i in fixed for i in range(N)]
    assert content["evaluations"] == found.evaluations
    assert content["fidelity_held_out"]["r_squared"] == found.fidelity.r_squared


def test_numbers_that_are_not_finite_are_null_in_json():
    bare = Contributions(
        values=np.array([1.0, np.nan]),
        standard_errors=np.array([np.inf, 0.0]),
        weighting="w",
        estimator="e",
        full_value=float("nan"),
        coalitions=np.ones((2, 2), dtype=np.bool_),
        measured=np.array([np.nan, 1.0]),
    )
    content = bare.to_json()
    assert content["full_value"] is None
    assert content["excluded_non_finite"] == 1
    assert [player["value"] for player in content["players"]] == [1.0, None]
    assert [player["standard_error"] for player in content["players"]] == [None, 0.0]
    assert content["fidelity_held_out"] is None


def test_fidelity():
    measured = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert Fidelity.of(measured, measured) == Fidelity(1.0, pytest.approx(1.0), pytest.approx(1.0), 6)
    mean = Fidelity.of(np.full(6, 3.5), measured)
    assert (mean.r_squared, mean.spearman, mean.spearman_good) == (0.0, None, None)
    reverse = Fidelity.of(measured[::-1], measured)
    assert reverse.spearman == pytest.approx(-1.0)
    assert reverse.r_squared == pytest.approx(-3.0)
    half = Fidelity.of(np.array([3.0, 2.0, 1.0, 4.0, 5.0, 6.0]), measured)
    assert half.spearman_good == pytest.approx(1.0)
    assert half.spearman < 0.8


@pytest.mark.parametrize("measured", [np.full(7, 0.1), np.array([2.0]), np.array([])])
def test_fidelity_is_undefined_where_nothing_varies(measured):
    fidelity = Fidelity.of(measured + 0.25, measured)
    assert (fidelity.r_squared, fidelity.spearman, fidelity.spearman_good) == (None, None, None)
    assert fidelity.coalitions == len(measured)


def ranked(values, n_remove, game, **options):
    contributions = ExactEstimator().estimate(EstimationProblem(quadratic(), 256, rng()))
    contributions = replace(contributions, values=np.array(values, dtype=np.float64))
    if options.pop("unmeasured", False):
        contributions = replace(
            contributions, coalitions=contributions.coalitions[:1], measured=contributions.measured[:1]
        )
    return RankingSelector().select(
        SelectionProblem(contributions, game.players, n_remove, game=game, rng=rng(), **options)
    )


def test_ranking_removes_the_lowest_and_passes_over_what_must_stay():
    game = quadratic(fixed=[1])
    plan = ranked([5, 0, 1, 1, np.nan, 2, 1, 9], 3, game)
    assert plan.removed == (2, 3, 6)
    assert plan.kept == (0, 1, 4, 5, 7)
    assert plan.measured_value == pytest.approx(-(LINEAR[2] + LINEAR[3] + LINEAR[6]))


def test_ranking_measures_its_set_only_if_the_budget_allows_it():
    asked = []
    game = quadratic()
    function = game._function
    game._function = lambda rows: asked.append(len(rows)) or function(rows)
    assert ranked(range(8), 2, game, unmeasured=True).measured_value is None
    assert ranked(range(8), 2, game, budget=5).measured_value == pytest.approx(-2.3)
    assert asked == []
    assert ranked(range(8), 2, game, unmeasured=True, budget=1).measured_value == pytest.approx(-2.3)
    assert asked == [1]


def test_ranking_takes_the_lowest_set_that_is_permitted():
    game = quadratic()
    game.permits = lambda absent: 1 not in absent
    assert ranked(range(8), 2, game).removed == (0, 2)
    game.permits = lambda absent: not absent
    with pytest.raises(InputError, match="no permitted set of 2 players was found"):
        ranked(range(8), 2, game)


def test_permission_and_number_of_removable_players():
    game = quadratic(4, fixed=[0, 2])
    found = SurrogateEstimator().estimate(EstimationProblem(game, 4, rng()))
    problem = SelectionProblem(found, game.players, 2, rng=rng())
    assert problem.permits([1, 3])
    assert not problem.permits([0])
    for n_remove in (0, 3):
        with pytest.raises(InputError, match=f"cannot remove {n_remove} of 4 players: choose 1 to 2"):
            replace(problem, n_remove=n_remove)
    with pytest.raises(InputError, match="choose 1 to 3"):
        SelectionProblem(found, quadratic(4).players, 4, rng=rng())


def test_fidelity_is_judged_at_the_size_of_the_cut():
    rows = np.array([[True] * 6] * 40)
    for row, absent in zip(rows, [2] * 20 + [4] * 20, strict=True):
        row[:absent] = False
    measured = np.concatenate([np.linspace(0, 1, 20), np.linspace(-5, -4, 20)])
    predicted = np.concatenate([np.linspace(1, 0, 20), np.linspace(-5, -4, 20)])
    fidelity = Fidelity.of(predicted, measured, rows, 2)
    assert fidelity.spearman > 0.4  # the sizes are told apart, the sets of the cut's size are not
    at = fidelity.at_target
    assert (at.coalitions, at.spearman, at.ordered) == (20, pytest.approx(-1.0), 0.0)
    assert at.in_words().endswith("in 0% of cases, which is not told apart from guessing")
    other = Fidelity.of(predicted, measured, rows, 4).at_target
    assert (other.coalitions, other.spearman, other.ordered) == (20, pytest.approx(1.0), 1.0)
    assert other.in_words().endswith("names the better one in 100% of cases")
    none = Fidelity.of(predicted, measured, rows, 3).at_target
    assert none.in_words().startswith(
        "on 0 held-out coalitions that lack 3 players, as the cut does: too few"
    )
    assert Fidelity.of(predicted, measured, rows).at_target is None


def test_single_absences_are_fitted_to_and_never_counted_as_predictions():
    game = quadratic()
    found = SurrogateEstimator().estimate(EstimationProblem(game, 60, rng(), n_remove=3))
    assert min(found.fidelity.absent) > 1
    assert found.fidelity.at_target.coalitions == found.fidelity.absent.count(3) > 0
    assert found.fidelity.at_target.r_squared > 0.9


def test_only_an_interaction_that_exists_exceeds_its_uncertainty():
    found = SurrogateEstimator().estimate(EstimationProblem(quadratic(), 120, rng(), n_remove=3))
    pairs = Pairs.of(found.interactions.tolist(), found.interaction_errors.tolist())
    assert (pairs.told_apart[0].one, pairs.told_apart[0].other) == (0, 1)


@pytest.mark.parametrize("common", [0.0, -0.05])
def test_equal_interactions_are_not_told_apart(common):
    noise = np.random.default_rng(7)

    def value(coalitions):
        absent = (~coalitions).astype(np.float64)
        size = absent.sum(axis=1)
        return common * size * (size - 1) / 2 - absent @ LINEAR + noise.normal(0, 0.02, len(absent))

    found = SurrogateEstimator().estimate(EstimationProblem(FunctionGame(N, value), 100, rng(), n_remove=3))
    pairs = Pairs.of(found.interactions.tolist(), found.interaction_errors.tolist())
    assert pairs.errors_known
    assert pairs.told_apart == ()


def test_uncertainty_of_interactions_leaves_the_draws_that_follow_alone():
    one, other = rng(), rng()
    SurrogateEstimator().estimate(EstimationProblem(quadratic(), 60, one, n_remove=3))
    again = SurrogateEstimator().estimate(EstimationProblem(quadratic(), 60, other, n_remove=3))
    assert one.random() == other.random()
    assert np.isnan(np.diag(again.interaction_errors)).all()
