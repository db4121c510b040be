"""Layers of several players: the values of plain runs, and no layer run twice for the same beginning."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know

from shapcut.game.coalitions import without
from shapcut.valuation.paths import Paths
from shapcut.valuation.prefix_tree import COALITIONS_BEFORE_TRIAL, CoalitionEvaluator, Placement

_SPECIFICATION = importlib.util.spec_from_file_location(
    "toy_stacks", Path(__file__).with_name("toy_stacks.py")
)
toy = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(toy)

IDS = toy.tokens()
N = 13
PLENTY = 10**8


def evaluator_of(stack, memory=PLENTY, ids=IDS):
    return CoalitionEvaluator(stack, stack.n_players, ids, "nll", Placement(memory))


def plain_loss(stack, row, ids=IDS):
    """The loss of one coalition, layer by layer, window by window."""
    present = np.flatnonzero(row).tolist()
    logits = torch.cat([stack.reference_logits(window[None], present) for window in ids])
    losses = [F.cross_entropy(some[:-1], window[1:]).item() for some, window in zip(logits, ids, strict=True)]
    return float(np.mean(losses))


def coalitions_of(stack, count=24, seed=0):
    """Coalitions with one to all experts of every layer, with and without the last block."""
    rng, size = np.random.default_rng(seed), stack.n_experts
    rows = rng.random((count, stack.n_players)) < 0.7
    for first in range(0, stack.n_players - 1, size):
        rows[:, first + rng.integers(size)] = True
    return np.vstack([np.ones((1, stack.n_players), dtype=np.bool_), rows])


@pytest.mark.parametrize("memory", [PLENTY, 1])
def test_values_are_those_of_plain_runs(memory):
    stack = toy.ToyExperts()
    rows = coalitions_of(stack)
    evaluator = evaluator_of(stack, memory)
    means = evaluator.means(rows)
    assert means == pytest.approx([plain_loss(stack, row) for row in rows], abs=1e-6)
    assert means[0] == evaluator.full_mean
    assert len(np.unique(means.round(5))) > 20


def test_states_are_bit_for_bit_those_of_plain_runs():
    stack = toy.ToyExperts()
    evaluator = evaluator_of(stack)
    for row in coalitions_of(stack):
        evaluator.means(row[None])
        path, state = 0, stack.prelude(IDS[:1])
        for layer, stage in enumerate(stack.stages(N)):
            (path,) = evaluator._paths.extended(layer, [path], row[None])
            present = row[list(stage)].tolist()
            if len(stage) != 1 or present[0]:
                state = stack.step(layer, state) if all(present) else stack.run(layer, present, state)
        found = evaluator._state(path, 0, 1)
        assert torch.equal(found[0], state[0])


def test_values_do_not_depend_on_company_or_order():
    stack = toy.ToyExperts()
    rows = coalitions_of(stack)
    together = evaluator_of(stack).means(rows)
    order = np.random.default_rng(1).permutation(len(rows))
    assert evaluator_of(stack).means(rows[order]).tolist() == together[order].tolist()
    alone = evaluator_of(stack, 1)
    assert [alone.means(row[None])[0] for row in rows] == together.tolist()


def test_a_layer_runs_once_for_coalitions_that_agree_so_far():
    stack = toy.ToyExperts()
    evaluator = evaluator_of(stack)
    assert evaluator.work.block_runs == 5
    rows = without(N, [(8,), (8, 12), (9,), (0, 8)])
    stack.calls.clear()
    before = evaluator.work.block_runs
    evaluator.means(rows)
    three, whole = (False, True, True, True), (True,) * 4
    layers = {3: [three, three, (True, False, True, True)], 1: [three]}
    wanted = {(index, present) for index, each in layers.items() for present in each}
    assert {call for call in stack.calls if call[1] != whole} == wanted
    # layer 3 three times, layer 4 behind each but where it is skipped, and layers 1 and 2 without expert 0
    assert evaluator.work.block_runs - before == 3 + 3 + 2


def test_a_layer_without_players_always_runs():
    stack = toy.ToyExperts()
    evaluator = evaluator_of(stack)
    assert np.isfinite(evaluator.means(without(N, [range(4, 8), range(13)]))).all()
    assert plain_loss(stack, np.zeros(N, dtype=np.bool_)) != pytest.approx(evaluator.full_mean, abs=1e-3)


def test_states_of_layers_with_several_players_do_not_share_a_step():
    evaluator = evaluator_of(toy.ToyExperts())
    evaluator.means(np.ones((COALITIONS_BEFORE_TRIAL, N), dtype=np.bool_))
    assert evaluator.states_per_step == 1


def test_paths_of_one_player_layers_are_the_bits_of_the_players():
    paths = Paths([range(player, player + 1) for player in range(6)])
    row = np.array([[True, False, True, True, False, False]])
    found = [0]
    for layer in range(6):
        before = found[0]
        found = paths.extended(layer, found, row)
        assert paths.runs(layer, found[0]) == row[0, layer]
        assert paths.before(layer, found[0]) == before
        assert paths.present(layer, found[0]) == [row[0, layer]]
    assert found == [0b001101]
    assert paths.trunk(3) == 0b111


def test_paths_tell_layers_apart_of_which_nobody_is_present():
    paths = Paths([range(2), range(2, 2), range(2, 5)])
    nobody = np.zeros((1, 5), dtype=np.bool_)
    found, seen = [0], {0}
    for layer in range(3):
        found = paths.extended(layer, found, nobody)
        assert paths.runs(layer, found[0])
        assert not any(paths.present(layer, found[0]))
        assert found[0] not in seen
        seen.add(found[0])


def test_thousands_of_players():
    stack = toy.ToyExperts(n_moe=48, n_experts=128)
    ids = toy.tokens(batch=1, length=4)
    n = stack.n_players
    assert n == 6145
    rng = np.random.default_rng(0)
    rows = np.ones((6, n), dtype=np.bool_)
    for row in rows[1:]:
        for first in range(0, n - 1, 128):
            row[first + rng.choice(128, size=32, replace=False)] = False
    rows[3, : 40 * 128] = rows[2, : 40 * 128]
    evaluator = evaluator_of(stack, ids=ids)
    before = evaluator.work.block_runs
    means = evaluator.means(rows)
    assert means[0] == evaluator.full_mean
    assert means[2] == pytest.approx(plain_loss(stack, rows[2], ids), abs=1e-5)
    assert evaluator.work.block_runs - before == 49 * 4 + 9
