"""Token losses and divergences in blocks of the vocabulary, against torch's own on all logits."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know

from shapcut.models.layer_stack import Unembedding
from shapcut.valuation import readout as readout_module
from shapcut.valuation.readout import (
    Divergence,
    NextTokenLoss,
    SampledLoss,
    fold_log_sum_exp,
    log_sum_exp,
    make_readout,
    means_of_windows,
    predicting,
    sampled_vocabulary,
    token_quantity,
)

_SPECIFICATION = importlib.util.spec_from_file_location(
    "toy_stacks", Path(__file__).with_name("toy_stacks.py")
)
toy = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(toy)

IDS = toy.tokens()


@pytest.fixture(params=[7, 50, 64], ids=["block 7", "block 50", "block 64"])
def block(request, monkeypatch):
    """Blocks that do not divide the vocabulary of 50, are it, or are larger."""
    monkeypatch.setattr(readout_module, "VOCABULARY_BLOCK", request.param)


def states(stack, presents):
    found = []
    for present in presents:
        state = stack.prelude(IDS)
        for index in present:
            state = stack.step(index, state)
        found.append(state)
    return found


PRESENTS = [range(5), (0, 2), (), (1, 2, 3, 4)]


def expected_loss(stack, present):
    logits = stack.reference_logits(IDS, present)[:, :-1].flatten(0, 1).double()
    return F.cross_entropy(logits, IDS[:, 1:].flatten()).item()


def means_of(readout, finals):
    """The mean over all windows for each state."""
    return list(readout.window_means(finals).mean(dim=1))


def taking(readout, full):
    readout.take_full(full)
    return readout


def divergence(stack, full):
    return taking(Divergence(stack, IDS), full)


def expected_divergence(stack, present):
    rows = stack.reference_logits(IDS, present)[:, :-1].flatten(0, 1).double().log_softmax(-1)
    full = stack.reference_logits(IDS, range(5))[:, :-1].flatten(0, 1).double().log_softmax(-1)
    return F.kl_div(rows, full, reduction="batchmean", log_target=True).item()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_next_token_loss(bias, declared, batch_size):
    stack = toy.ToyStack(bias=bias, declared=declared, batch_size=batch_size)
    means = means_of(NextTokenLoss(stack, IDS), states(stack, PRESENTS))
    assert [mean.dtype for mean in means] == [torch.float64] * 4
    expected = [expected_loss(stack, present) for present in PRESENTS]
    assert [mean.item() for mean in means] == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_divergence(bias, declared, batch_size):
    stack = toy.ToyStack(bias=bias, declared=declared, batch_size=batch_size)
    finals = states(stack, PRESENTS)
    means = means_of(divergence(stack, finals[0]), finals)
    expected = [expected_divergence(stack, present) for present in PRESENTS]
    assert means[0].item() == pytest.approx(0.0, abs=1e-6)
    assert min(expected[1:]) > 0.01
    assert [mean.item() for mean in means] == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("measure", ["nll", "kl"])
def test_a_state_is_read_out_alike_alone_and_in_company(measure):
    stack = toy.ToyStack(bias=True)
    finals = states(stack, PRESENTS)
    readout = taking(make_readout(measure, stack, IDS), finals[0])
    together = [mean.item() for mean in means_of(readout, finals)]
    assert [means_of(readout, [state])[0].item() for state in finals] == together


@pytest.mark.usefixtures("block")
def test_large_logits_do_not_overflow():
    stack = toy.ToyStack(bias=True)
    stack.weight *= 1e4
    means = means_of(NextTokenLoss(stack, IDS), states(stack, PRESENTS))
    expected = [expected_loss(stack, present) for present in PRESENTS]
    assert [mean.item() for mean in means] == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("measure", ["nll", "kl"])
@pytest.mark.parametrize("declared", [False, True])
def test_logits_that_are_no_numbers_give_no_finite_mean(bad, measure, declared):
    stack = toy.ToyStack(declared=declared)
    finals = states(stack, PRESENTS[:2])
    readout = taking(make_readout(measure, stack, IDS), finals[0])
    broken = finals[1][0].clone()
    broken[1, 2, 3] = bad
    means = means_of(readout, [(broken,), finals[1]])
    assert not means[0].isfinite()
    assert means[1].isfinite()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("declared", [False, True])
def test_a_token_that_cannot_occur(declared):
    stack = toy.ToyStack(bias=True, declared=declared)
    unused = next(token for token in range(50) if token not in IDS)
    stack.bias[unused] = -torch.inf
    finals = states(stack, PRESENTS)
    means = means_of(NextTokenLoss(stack, IDS), finals)
    expected = [expected_loss(stack, present) for present in PRESENTS]
    assert [mean.item() for mean in means] == pytest.approx(expected, abs=1e-5)
    stack.bias[IDS[0, 1]] = -torch.inf
    assert not means_of(NextTokenLoss(stack, IDS), finals[:1])[0].isfinite()
    assert not means_of(divergence(stack, finals[0]), finals[1:2])[0].isfinite()


@pytest.mark.parametrize(
    "row",
    [
        [1.0, 2.0, 3.0, 4.0],
        [-torch.inf, -torch.inf, 3.0, 4.0],
        [3.0, -torch.inf, -torch.inf, -torch.inf],
        [-torch.inf] * 4,
        [1.0, torch.inf, 2.0, 3.0],
        [1e4, -1e4, 1e4, 0.0],
        [torch.nan, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, torch.nan],
        [torch.inf, 1.0, torch.nan, 2.0],
    ],
)
def test_running_log_sum_exp(row):
    values = torch.tensor([row, row[::-1]])
    so_far = torch.full((2,), -torch.inf), torch.zeros(2)
    for start in (0, 2):
        so_far = fold_log_sum_exp(so_far, values[:, start : start + 2].clone())
    torch.testing.assert_close(log_sum_exp(so_far), values.logsumexp(-1), equal_nan=True)


def test_predicting_drops_each_sequences_last_position():
    features = torch.arange(24.0).view(2, 4, 3)
    assert predicting(features)[:, 0].tolist() == [0.0, 3.0, 6.0, 12.0, 15.0, 18.0]


def test_windows_have_means_of_their_own():
    tokens = torch.arange(12.0)
    assert means_of_windows(tokens, 3).tolist() == [1.5, 5.5, 9.5]


def test_losses_over_a_large_vocabulary_are_not_biased():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 65, 50_000, generator=generator)
    ids = torch.randint(50_000, (1, 65), generator=generator)
    exact = F.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none")
    errors = token_quantity(logits, ids).double() - exact
    spacing = np.spacing(np.float32(exact.max()))
    assert errors.abs().max() < 4 * spacing
    assert abs(errors.mean()) < 0.5 * spacing


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("measure", ["nll", "kl"])
@pytest.mark.parametrize("declared", [False, True])
def test_windows_are_read_out_alike_however_many_go_together(measure, declared):
    stack = toy.ToyStack(bias=True, declared=declared)
    ids = toy.tokens(batch=5)
    full, final = (stack.prelude(ids), stack.step(1, stack.prelude(ids)))
    readout = taking(make_readout(measure, stack, ids, 2), full)
    whole = readout.window_means([final])
    assert whole.shape == (1, 5)
    assert whole.dtype == torch.float64
    ends = [readout.window_means([(final[0][first:last],)], first) for first, last in ((0, 2), (2, 5))]
    assert torch.equal(torch.cat(ends, dim=1), whole)


@pytest.mark.parametrize("measure", ["nll", "kl"])
def test_rows_are_read_out_in_pieces(measure, monkeypatch):
    stack = toy.ToyStack(bias=True)
    finals = states(stack, PRESENTS)
    whole = taking(make_readout(measure, stack, IDS), finals[0]).window_means(finals)
    monkeypatch.setattr(readout_module, "MOST_ROWS_READ_OUT", 5)
    monkeypatch.setattr(readout_module, "MOST_STATES_READ_OUT", 2)
    pieces = taking(make_readout(measure, stack, IDS), finals[0]).window_means(finals)
    assert torch.allclose(pieces, whole, atol=1e-6)


@pytest.fixture
def sampling(monkeypatch):
    """A vocabulary of 400 of which 100 tokens are read out exactly and 60 in a sample."""
    monkeypatch.setattr(readout_module, "EXACT_TOKENS", 100)
    monkeypatch.setattr(readout_module, "SAMPLED_TOKENS", 60)


def sampled(stack, ids, full, step=None):
    readout = make_readout("nll", stack, ids, step, sampled=True)
    assert isinstance(readout, SampledLoss)
    return taking(readout, full)


@pytest.mark.usefixtures("sampling")
@pytest.mark.parametrize("bias", [False, True])
def test_a_sampled_loss_is_exact_for_the_full_model_and_near_it_otherwise(bias):
    stack, ids = toy.ToyStack(vocabulary=400, bias=bias), toy.tokens(8, 40, 400)
    full = states_of(stack, ids, range(5))
    near, far = states_of(stack, ids, (0, 1, 2, 3)), states_of(stack, ids, (2,))
    exact = NextTokenLoss(stack, ids).window_means([full, near, far])
    found = sampled(stack, ids, full).window_means([full, near, far])
    assert torch.allclose(found[0], exact[0], atol=1e-5)
    errors = (found - exact).mean(dim=1).abs()
    assert errors[1:].min() > 1e-4
    assert errors[1:].max() < 0.2


@pytest.mark.usefixtures("sampling")
def test_a_sampled_loss_does_not_depend_on_the_windows_that_go_together():
    stack, ids = toy.ToyStack(vocabulary=400), toy.tokens(6, 7, 400)
    full, final = states_of(stack, ids, range(5)), states_of(stack, ids, (1, 3))
    whole = sampled(stack, ids, full, 2).window_means([final])
    readout = make_readout("nll", stack, ids, 2, sampled=True)
    for first in (0, 4):
        readout.take_full((full[0][first : first + 4],), first)
    parts = [readout.window_means([(final[0][first : first + 4],)], first) for first in (0, 4)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.usefixtures("sampling")
def test_a_sample_estimates_the_sum_over_the_whole_vocabulary():
    generator = torch.Generator().manual_seed(0)
    linear = Unembedding(torch.randn(5000, 8, generator=generator), torch.randn(5000, generator=generator))
    rows = torch.randn(300, 8, generator=generator) / 4
    logits = F.linear(rows, *((linear.weight, linear.bias)))
    part = sampled_vocabulary(linear, logits.softmax(-1).mean(dim=0))
    assert part.weight.shape == (160, 8)
    estimate = F.linear(rows, part.weight, part.bias).logsumexp(-1)
    assert abs(float((estimate - logits.logsumexp(-1)).exp().mean()) - 1.0) < 0.5


@pytest.mark.parametrize(("tokens", "measure"), [(13, "nll"), (12, "kl")])
def test_a_small_vocabulary_and_a_divergence_are_read_out_whole(tokens, measure, monkeypatch):
    monkeypatch.setattr(readout_module, "EXACT_TOKENS", tokens)
    monkeypatch.setattr(readout_module, "SAMPLED_TOKENS", 13)
    assert not isinstance(make_readout(measure, toy.ToyStack(), IDS, sampled=True), SampledLoss)
    assert not isinstance(make_readout("nll", toy.ToyStack(declared=False), IDS, sampled=True), SampledLoss)


def states_of(stack, ids, present):
    state = stack.prelude(ids)
    for index in present:
        state = stack.step(index, state)
    return state
