"""The baselines on games with known answers: what they choose, and what they are charged."""

from dataclasses import replace
from itertools import combinations
from zlib import crc32

import numpy as np
import pytest

from shapcut.baselines.blind import LastEstimator, NoEstimator, RandomEstimator
from shapcut.baselines.evolutionary import EvolutionarySelector
from shapcut.baselines.greedy import GreedySelector, greedy_evaluations
from shapcut.baselines.leave_one_out import LeaveOneOutEstimator
from shapcut.estimators.base import EstimationProblem
from shapcut.game.budget import BudgetedGame, MeteredGame
from shapcut.game.coalitions import without
from shapcut.game.game import FunctionGame, Game
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.support.errors import InputError, ShapcutError

N = 9


class TokenGame(FunctionGame):
    """A game whose values come from tokens: on fewer of them values are noisy, and always the same."""

    def __init__(self, n, function, tokens=800, fixed=(), permitted=None):
        super().__init__(n, function)
        self._players = tuple(replace(p, removable=p.index not in fixed) for p in self.players)
        self._permitted = permitted
        self._tokens = tokens
        self.asked = []

    @property
    def tokens(self):
        return self._tokens

    def measurements(self, coalitions):
        self.asked += [row.tobytes() for row in coalitions]
        return super().measurements(coalitions)

    def permits(self, absent):
        return super().permits(absent) and (self._permitted is None or self._permitted(sorted(absent)))

    def narrowed(self, tokens):
        if tokens >= self._tokens:
            return self
        windows = max(1, tokens // 100) * 100

        def noisy(rows):
            noise = np.array([crc32(row.tobytes()) % 97 for row in rows]) / 97
            return self._function(rows) + noise / windows

        return TokenGame(self.n_players, noisy, windows, permitted=self._permitted)


def pairs(seed=0, n=N):
    """Single losses and pairwise ones that ranking does not see."""
    rng = np.random.default_rng(seed)
    singles, both = rng.random(n), np.triu(rng.normal(size=(n, n)), 1)

    def value(rows):
        absent = (~rows).astype(np.float64)
        return -absent @ singles - np.einsum("ri,ij,rj->r", absent, both, absent)

    return value


def rng(seed=0):
    return np.random.default_rng(seed)


def nothing_known(game):
    return NoEstimator().estimate(EstimationProblem(game, 0, rng()))


def removed(selector, game, n_remove, budget=10_000, seed=0):
    plan = selector.select(
        SelectionProblem(nothing_known(game), game.players, n_remove, game=game, budget=budget, rng=rng(seed))
    )
    return plan.removed


def brute_force_greedy(game, n_remove):
    gone = ()
    for _ in range(n_remove):
        sets = [tuple(sorted((*gone, p.index))) for p in game.players if p.removable and p.index not in gone]
        sets = [candidate for candidate in sets if game.permits(candidate)]
        gone = max(sets, key=lambda absent: float(game.values(without(game.n_players, [absent]))[0]))
    return gone


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fixed", [(), (1, 4)])
def test_greedy_takes_the_best_step_each_time(seed, fixed):
    game = TokenGame(N, pairs(seed), fixed=fixed)
    for n_remove in (1, 2, 4):
        assert removed(GreedySelector(), game, n_remove) == brute_force_greedy(game, n_remove)


def test_greedy_asks_for_each_step_once_and_for_nothing_that_is_known():
    game = TokenGame(N, pairs())
    counted = BudgetedGame(game, greedy_evaluations(N, 3))
    assert counted.budget == 9 + 8 + 7
    removed(GreedySelector(), counted, 3, budget=counted.remaining)
    assert counted.spent == counted.budget
    known = LeaveOneOutEstimator().estimate(EstimationProblem(game, N + 1, rng()))
    rest = BudgetedGame(game, 8 + 7)
    plan = GreedySelector().select(SelectionProblem(known, game.players, 3, game=rest, budget=15, rng=rng()))
    assert plan.removed == brute_force_greedy(game, 3)
    assert rest.spent == 15


def test_greedy_is_refused_what_it_cannot_do():
    game = TokenGame(N, pairs())
    with pytest.raises(InputError, match="needs a budget of 24 coalitions, 23 are left"):
        removed(GreedySelector(), game, 3, budget=23)
    assert game.asked == []
    with pytest.raises(InputError, match="needs a game"):
        GreedySelector().select(SelectionProblem(nothing_known(game), game.players, 3, rng=rng()))
    with pytest.raises(ShapcutError, match="none of 9 sets of 1 players has a finite value"):
        removed(GreedySelector(), TokenGame(N, lambda rows: np.full(len(rows), np.nan)), 2)


def in_pairs(absent):
    """Only players 2i and 2i + 1 together."""
    return all((player ^ 1) in absent for player in absent)


def never(absent):
    return len(absent) != 3


@pytest.mark.parametrize("selector", [GreedySelector(), EvolutionarySelector(generations=4)])
def test_only_permitted_sets_are_chosen(selector):
    game = TokenGame(8, pairs(2, 8), permitted=in_pairs)
    chosen = removed(selector, game, 4)
    assert len(chosen) == 4
    assert in_pairs(chosen)
    with pytest.raises(InputError, match="permitted"):
        removed(selector, TokenGame(8, pairs(2, 8), permitted=never), 3)


def test_greedy_goes_by_pairs_where_single_steps_are_not_permitted():
    game = TokenGame(8, pairs(3, 8), permitted=in_pairs)
    best = max(
        ((2 * i, 2 * i + 1) for i in range(4)), key=lambda pair: float(game.values(without(8, [pair]))[0])
    )
    assert removed(GreedySelector(), game, 2) == best


def test_evolution_finds_the_best_set_and_repeats_itself():
    game = TokenGame(N, pairs(5))
    best = max(combinations(range(N), 3), key=lambda absent: float(game.values(without(N, [absent]))[0]))
    selector = EvolutionarySelector(generations=30)
    assert removed(selector, game, 3) == best
    short = EvolutionarySelector(generations=2, offspring=3, initial=2)
    walks = []
    for seed in (1, 1, 2):
        watched = TokenGame(N, pairs(5))
        chosen = removed(short, watched, 4, seed=seed)
        walks.append((chosen, watched.asked))
    assert walks[0] == walks[1]
    assert walks[0][1] != walks[2][1]


@pytest.mark.parametrize("budget", [10, 17, 40])
def test_evolution_stays_within_its_budget_counted_in_tokens(budget):
    game = TokenGame(12, pairs(1, 12))
    outer = BudgetedGame(game, budget)
    chosen = removed(EvolutionarySelector(), outer, 4, budget=budget)
    assert len(chosen) == 4
    assert outer.cost.tokens <= budget * game.tokens
    assert outer.cost.tokens > (budget - 6) * game.tokens
    assert outer.cost.evaluations > budget


def test_evolution_measures_first_on_few_tokens():
    game = TokenGame(N, pairs())
    counted = MeteredGame(game)
    removed(EvolutionarySelector(generations=1, offspring=6, initial=5, survivors=(2, 1)), counted, 3)
    assert counted.spent == 1 + 1 + 2  # the whole model; then the parent and two survivors
    few = counted.narrowed(100)
    assert few.tokens == 100
    assert 1 + 5 <= few.spent <= 1 + 5 + 6
    assert counted.cost.tokens == counted.spent * (800 - 100) + few.spent * 100


def test_evolution_says_what_is_wrong_with_its_options():
    with pytest.raises(ValueError, match="offspring=0"):
        EvolutionarySelector(offspring=0)
    with pytest.raises(ValueError, match="one positive number for each"):
        EvolutionarySelector(tokens=(100,))
    game = TokenGame(N, pairs())
    with pytest.raises(InputError, match="raise --budget"):
        removed(EvolutionarySelector(), game, 3, budget=2)
    with pytest.raises(InputError, match="needs a game"):
        EvolutionarySelector().select(SelectionProblem(nothing_known(game), game.players, 3, rng=rng()))


def test_leave_one_out_is_the_loss_of_each_absence():
    game = TokenGame(N, pairs(), fixed=(3,))
    found = LeaveOneOutEstimator().estimate(EstimationProblem(game, N, rng()))
    full = game.values(np.ones((1, N), dtype=bool))[0]
    expected = [full - game.values(without(N, [[player]]))[0] for player in range(N)]
    expected[3] = np.nan
    assert found.values == pytest.approx(expected, nan_ok=True)
    assert found.evaluations == N
    with pytest.raises(InputError, match="needs a budget of at least 9 coalitions, got 8"):
        LeaveOneOutEstimator().estimate(EstimationProblem(game, 8, rng()))


def test_the_blind_estimators():
    game = TokenGame(6, pairs(0, 6), fixed=(4,))

    def chosen(estimator, seed=0, n_remove=2):
        found = estimator.estimate(EstimationProblem(game, 0, rng(seed), n_remove=n_remove))
        return RankingSelector().select(SelectionProblem(found, game.players, n_remove, rng=rng())).removed

    assert chosen(LastEstimator()) == (3, 5)
    assert chosen(LastEstimator(keep_last=1)) == (2, 3)
    sets = {chosen(RandomEstimator(), seed) for seed in range(60)}
    assert sets == set(combinations([0, 1, 2, 3, 5], 2))
    assert chosen(RandomEstimator(), 7) == chosen(RandomEstimator(), 7)
    with pytest.raises(InputError, match="nothing to rank: estimator 'none'"):
        chosen(NoEstimator())
    with pytest.raises(ValueError, match="neither can be negative"):
        LastEstimator(keep_last=-1)
    assert game.asked == []


def test_a_metered_game_charges_every_distinct_coalition_once():
    game = TokenGame(5, pairs(0, 5))
    metered = MeteredGame(game)
    rows = without(5, [[0], [1, 2], [0]])
    metered.values(rows)
    metered.values(rows[:1])
    assert metered.cost.to_json() == {"evaluations": 2, "tokens": 1600, "block_tokens": (4 + 3) * 800}
    inner = BudgetedGame(metered, 5)
    narrow = inner.narrowed(250)
    assert inner.narrowed(299) is narrow
    assert inner.narrowed(800) is inner
    narrow.values(rows)
    assert metered.cost.tokens == 1600 + 2 * 200
    assert inner.cost.tokens == 2 * 200
    assert inner.remaining == 4  # half an evaluation is gone
    inner.values(rows)
    assert inner.cost.tokens == 2 * 800  # only what is new
    assert inner.remaining == 3


def test_games_without_tokens_have_no_narrower_form():
    game: Game = FunctionGame(5, pairs(0, 5))
    assert MeteredGame(game).narrowed(3).n_players == 5
    assert MeteredGame(game).access is None
    assert len(removed(EvolutionarySelector(generations=2), game, 2)) == 2
