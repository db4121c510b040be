"""Many coalitions in one pass: the values of one forward pass each, in any company, for less work."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from shapcut.game.coalitions import Player, all_coalitions, without
from shapcut.game.game import assembled
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.valuation import prefix_tree as evaluation
from shapcut.valuation import state_memory
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut.valuation.state_memory import state_bytes
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

_SPECIFICATION = importlib.util.spec_from_file_location(
    "toy_stacks", Path(__file__).with_name("toy_stacks.py")
)
toy = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(toy)

N = 5
IDS = toy.tokens()
STATE_BYTES = 3 * 7 * 16 * 4
PLENTY = 10**8
TIGHT = 1


class ToyAdapter(Adapter):
    """Runs a `ToyStack` layer by layer, as the reference for its fast evaluation."""

    name = "toy"

    def __init__(self, stack):
        self.toy = stack
        self.present = range(N)

    def matches(self, model):
        return True

    def players(self, model, granularity="block"):
        return tuple(Player(i, f"layer {i}", "block", 256) for i in range(N))

    @contextmanager
    def bypass(self, model, present, granularity="block"):
        self.present = present
        yield
        self.present = range(N)

    def logits(self, model, input_ids):
        return self.toy.reference_logits(input_ids, self.present)

    def remove(self, model, absent, granularity="block"):
        return model

    def example(self, seed):
        return nn.Identity(), IDS


def fast(stack, measure="nll", memory=PLENTY):
    return CoalitionEvaluator(stack, N, IDS, measure, Placement(memory))


def reference(stack, measure="nll"):
    return BypassEvaluator(ToyAdapter(stack), nn.Identity(), IDS, measure)


@pytest.mark.parametrize("measure", ["nll", "kl"])
@pytest.mark.parametrize("declared", [True, False])
def test_equals_the_bypass_for_every_coalition(measure, declared):
    stack = toy.ToyStack(declared=declared)
    evaluator, bypass = fast(stack, measure), reference(stack, measure)
    coalitions = all_coalitions(N)
    means = evaluator.means(coalitions)
    assert means == pytest.approx(bypass.means(coalitions), abs=1e-5)
    assert evaluator.full_mean == pytest.approx(bypass.full_mean, abs=1e-6)
    assert np.unique(means.round(4)).size > 25
    assert (evaluator.work.coalitions, bypass.work.coalitions) == (32, 32)


@pytest.mark.parametrize("measure", ["nll", "kl"])
def test_equals_the_bypass_on_a_tiny_llama(measure):
    adapter = HFDecoderAdapter()
    model, ids = adapter.example(0)
    n = len(adapter.players(model))
    stack = adapter.stack(model)
    evaluator = CoalitionEvaluator(stack, n, ids, measure, Placement(PLENTY))
    bypass = BypassEvaluator(adapter, model, ids, measure)
    absent = [(), (0,), (n - 1,), *[set(range(n)) - {kept} for kept in (0, 2, n - 1)]]
    coalitions = np.vstack([without(n, absent), np.random.default_rng(0).random((10, n)) < 0.6])
    means = evaluator.means(coalitions)
    assert means == pytest.approx(bypass.means(coalitions), abs=1e-5)
    assert [evaluator.means(row[None])[0] for row in coalitions] == means.tolist()
    assert means[0] == evaluator.full_mean


@pytest.mark.parametrize("memory", [PLENTY, 20 * STATE_BYTES, TIGHT])
@pytest.mark.parametrize("measure", ["nll", "kl"])
def test_a_value_does_not_depend_on_company_or_order(memory, measure):
    evaluator = fast(toy.ToyStack(), measure, memory)
    coalitions = all_coalitions(N)
    together = evaluator.means(coalitions)
    order = np.random.default_rng(0).permutation(32)
    assert evaluator.means(coalitions[order]).tolist() == together[order].tolist()
    assert [evaluator.means(row[None])[0] for row in coalitions] == together.tolist()
    assert evaluator.means(coalitions[[9, 9, 4, 9]]).tolist() == together[[9, 9, 4, 9]].tolist()
    assert evaluator.means(coalitions[:0]).shape == (0,)


def distinct_prefixes_off_the_trunk(coalitions):
    """Ways to begin that end in a layer that runs and have left a layer out before."""
    prefixes = {tuple(row[: end + 1]) for row in coalitions.tolist() for end in range(N) if row[end]}
    return sum(not all(prefix) for prefix in prefixes)


def work_of(evaluator, coalitions):
    """How many block runs, and how many sequences through how many layers, an evaluation takes."""
    evaluator.stack.steps.clear()
    before = evaluator.work.block_runs
    evaluator.means(coalitions)
    return evaluator.work.block_runs - before, sum(rows for _, rows in evaluator.stack.steps)


@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("seed", range(4))
def test_runs_each_distinct_prefix_off_the_trunk_once(seed, together):
    evaluator = fast(toy.ToyStack())
    evaluator.states_per_step = together
    assert evaluator.work.block_runs == N
    coalitions = np.random.default_rng(seed).random((12, N)) < 0.7
    runs, sequences = work_of(evaluator, coalitions)
    assert runs == distinct_prefixes_off_the_trunk(coalitions)
    assert sequences == 3 * runs
    assert runs < coalitions.sum()


def test_what_was_run_before_is_not_run_again():
    evaluator = fast(toy.ToyStack())
    evaluator.means(all_coalitions(N)[:20])
    assert work_of(evaluator, all_coalitions(N)[10:20]) == (0, 0)
    later, _ = work_of(evaluator, all_coalitions(N)[20:])
    everything = distinct_prefixes_off_the_trunk(all_coalitions(N))
    assert later == everything - distinct_prefixes_off_the_trunk(all_coalitions(N)[:20])


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_memory_forgets_what_was_not_used_for_longest(capacity):
    memory = evaluation.StateMemory(capacity)
    memory.pin((0, 0), "pinned")
    for layers in (1, 2, 4):
        memory.keep((0, layers), f"state {layers}")
        memory.get((0, 1))
    assert memory.get((3, 0)) is None
    known = [layers for layers in (0, 1, 2, 4) if memory.get((0, layers)) is not None]
    assert known == {0: [0], 1: [0, 4], 2: [0, 1, 4]}[capacity]


def test_states_share_a_step_only_if_that_changes_nothing():
    class Unstable(toy.ToyStack):
        """Gives other last bits where more than ``limit`` sequences go together, as matrix products may."""

        limit = 6

        def step(self, index, state):
            (hidden,) = super().step(index, state)
            return (hidden * (1 + 1e-7) if len(hidden) > self.limit else hidden,)

    class Mixture(toy.ToyStack):
        """Computes something only for positions that are positive, as experts do."""

        def step(self, index, state):
            (hidden,) = super().step(index, state)
            chosen = hidden[..., 0] > 0
            return (hidden.masked_scatter(chosen[..., None], hidden[chosen] * 2),)

    class SometimesUnstable(Unstable):
        """Does so in one layer only."""

        def step(self, index, state):
            return (super() if index == 1 else super(Unstable, self)).step(index, state)

    def states_per_step(stack):
        evaluator = fast(stack)
        evaluator.means(np.ones((evaluation.COALITIONS_BEFORE_TRIAL, N), dtype=np.bool_))
        return evaluator.states_per_step

    assert states_per_step(toy.ToyStack()) == 8
    assert states_per_step(Unstable()) == 2
    assert states_per_step(SometimesUnstable()) == 2
    assert states_per_step(toy.ToyStack(batch_size=1)) == 1
    assert states_per_step(Mixture()) == 1


def test_sharing_is_tried_only_where_many_coalitions_are_asked_for():
    evaluator = fast(toy.ToyStack())
    asked = np.ones((evaluation.COALITIONS_BEFORE_TRIAL - 1, N), dtype=np.bool_)
    evaluator.stack.steps.clear()
    evaluator.means(asked)
    assert evaluator.stack.steps == []
    assert evaluator.states_per_step == 1
    evaluator.means(asked[:1])
    assert evaluator.states_per_step == 8


def test_the_whole_model_needs_no_further_run():
    evaluator = fast(toy.ToyStack())
    before = evaluator.work.block_runs
    assert evaluator.means(np.ones((2, N), dtype=np.bool_)).tolist() == [evaluator.full_mean] * 2
    assert evaluator.work.block_runs == before


def test_little_memory_means_no_trunk_one_coalition_at_a_time_and_the_same_values():
    coalitions = all_coalitions(N)
    plenty, tight = fast(toy.ToyStack()), fast(toy.ToyStack(), memory=TIGHT)
    assert (plenty.chunk_size, len(plenty._known._pinned)) == (256, N)
    assert (tight.chunk_size, len(tight._known._pinned)) == (1, 0)
    assert tight.means(coalitions).tolist() == plenty.means(coalitions).tolist()
    assert tight.work.block_runs == N + coalitions.sum()


def test_chunks_hold_coalitions_that_begin_alike():
    first, second = (fast(toy.ToyStack(), memory=20 * STATE_BYTES) for _ in range(2))
    first.means(all_coalitions(N)[np.lexsort(all_coalitions(N).T[::-1])])
    second.means(all_coalitions(N)[np.random.default_rng(0).permutation(32)])
    assert second.work.block_runs == first.work.block_runs


def test_memory_budget_covers_trunk_and_states():
    evaluator = fast(toy.ToyStack(), memory=20 * STATE_BYTES)
    evaluator.means(all_coalitions(N))
    known = evaluator._known
    pinned, recent = (sum(map(state_bytes, some.values())) for some in (known._pinned, known._recent))
    assert pinned == N * STATE_BYTES
    assert 2 * STATE_BYTES < recent <= (20 - N - 1) / 4 * STATE_BYTES
    assert evaluator.chunk_size * evaluator.windows_together <= (20 - N - 1) / 4 * 3


@pytest.mark.parametrize("measure", ["nll", "kl"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_fixed_batch_size_is_kept(measure, declared):
    stack = toy.ToyStack(batch_size=1, declared=declared)
    means = fast(stack, measure).means(all_coalitions(N))
    assert {rows for _, rows in stack.steps} == {1}
    assert means == pytest.approx(reference(toy.ToyStack(), measure).means(all_coalitions(N)), abs=1e-5)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_fixed_batch_size_that_does_not_divide_the_samples_is_refused(batch_size):
    with pytest.raises(InputError, match=f"takes {batch_size} sequences at a time.* got 3 samples"):
        fast(toy.ToyStack(batch_size=batch_size))


@pytest.mark.parametrize(("tokens", "windows"), [(1000, 3), (15, 2), (3, 1)])
def test_a_layer_call_takes_few_tokens_and_at_most_a_quarter_of_the_windows(tokens, windows, monkeypatch):
    whole = fast_on_many().means(all_coalitions(N))
    monkeypatch.setattr(state_memory, "TOKENS_PER_STEP", tokens)
    evaluator = fast_on_many()
    evaluator.stack.steps.clear()
    assert evaluator.means(all_coalitions(N)) == pytest.approx(whole, abs=1e-6)
    assert max(rows for _, rows in evaluator.stack.steps) == windows


def test_a_broken_layer_spoils_only_the_coalitions_that_run_it():
    stack = toy.ToyStack()
    evaluator = fast(stack, memory=TIGHT)
    stack.layers[2] = torch.full((16, 16), torch.nan)
    means = evaluator.means(all_coalitions(N))
    assert (np.isnan(means) == all_coalitions(N)[:, 2]).all()


def test_states_of_several_tensors():
    class TwoTensors(toy.ToyStack):
        def prelude(self, input_ids):
            (hidden,) = super().prelude(input_ids)
            return hidden, torch.zeros(len(hidden))

        def step(self, index, state):
            (hidden,) = super().step(index, state[:1])
            return hidden + state[1][:, None, None], state[1] + 0.1

    def slowly(present):
        stack = TwoTensors()
        state = stack.prelude(IDS)
        for index in present:
            state = stack.step(index, state)
        ids = SimpleNamespace(rows=stack.readout(state)[:, :-1].flatten(0, 1), targets=IDS[:, 1:].flatten())
        return torch.nn.functional.cross_entropy(ids.rows, ids.targets).item()

    rows = all_coalitions(N)
    expected = [slowly(np.flatnonzero(row).tolist()) for row in rows]
    assert fast(TwoTensors(batch_size=1)).means(rows) == pytest.approx(expected, abs=1e-5)
    assert fast(TwoTensors()).means(rows) == pytest.approx(expected, abs=1e-5)


MANY = toy.tokens(batch=9)


@pytest.mark.parametrize("measure", ["nll", "kl"])
@pytest.mark.parametrize(
    ("memory", "together", "keeps_trunk"), [(PLENTY, 9, True), (700_000, 3, True), (9_000, 3, False)]
)
def test_values_are_the_same_however_many_windows_go_together(measure, memory, together, keeps_trunk):
    stack = toy.ToyStack()
    evaluator = CoalitionEvaluator(stack, N, MANY, measure, Placement(memory))
    assert (evaluator.windows_together, evaluator._keeps_trunk) == (together, keeps_trunk)
    everything = CoalitionEvaluator(toy.ToyStack(), N, MANY, measure, Placement(PLENTY))
    coalitions = all_coalitions(N)[np.random.default_rng(0).permutation(32)]
    expected = everything.window_means(coalitions)
    assert evaluator.full.tolist() == everything.full.tolist()
    assert evaluator.window_means(coalitions).tolist() == expected.tolist()
    assert max(rows for _, rows in stack.steps) == 3


def test_windows_measured_in_turn_are_those_measured_at_once():
    coalitions = all_coalitions(N)
    expected = fast_on_many().window_means(coalitions)
    evaluator = fast_on_many()
    spans = [(0, 3), (3, 6), (6, 9)]
    found = [assembled(evaluator.parts(coalitions, *span), 32, *span) for span in spans]
    assert np.hstack(found).tolist() == expected.tolist()
    again = assembled(evaluator.parts(coalitions, 0, 9), 32, 0, 9)
    assert again.tolist() == expected.tolist()
    assert evaluator.work.coalitions == pytest.approx(64)


def test_few_windows_cost_their_share():
    evaluator = fast_on_many()
    before = evaluator.work.block_runs
    list(evaluator.parts(all_coalitions(N), 0, 3))
    whole = fast_on_many()
    list(whole.parts(all_coalitions(N), 0, 9))
    assert evaluator.work.block_runs - before == pytest.approx((whole.work.block_runs - before) / 3)


def test_all_windows_share_prefixes_where_a_state_of_all_fits_only_once():
    state = state_bytes(toy.ToyStack().prelude(MANY))
    evaluator = CoalitionEvaluator(toy.ToyStack(), N, MANY, "nll", Placement(9 * state))
    assert not evaluator._keeps_trunk
    assert evaluator.windows_together == 3
    before = evaluator.work.block_runs
    evaluator.means(all_coalitions(N))
    assert evaluator.work.block_runs - before < 2**N + 2 * N


def fast_on_many():
    return CoalitionEvaluator(toy.ToyStack(), N, MANY, "nll", Placement(PLENTY))
