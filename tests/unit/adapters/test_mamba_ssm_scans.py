"""The plain PyTorch paths for mamba-ssm against recurrences written down element by element."""

import itertools

import pytest
import torch

from shapcut_adapters.mamba_ssm.kernels.causal_conv import causal_conv, causal_conv_step
from shapcut_adapters.mamba_ssm.kernels.chunk_scan import chunk_scan
from shapcut_adapters.mamba_ssm.kernels.norms import add_and_normalise, gated_rms_norm
from shapcut_adapters.mamba_ssm.kernels.rotary import RotaryEmbedding
from shapcut_adapters.mamba_ssm.kernels.selective_scan import selective_scan

DOUBLE = torch.float64


def numbers(*shape, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def mamba_arguments(length=9):
    return {
        "inputs": numbers(2, 3, length, seed=1),
        "step_sizes": numbers(2, 3, length, seed=2),
        "rates": -numbers(3, 4, seed=3).exp(),
        "into": numbers(2, 4, length, seed=4),
        "out_of": numbers(2, 4, length, seed=5),
    }


def naive_mamba(inputs, step_sizes, rates, into, out_of):
    batch, channels, length = inputs.shape
    state = torch.zeros(batch, channels, rates.shape[1], dtype=DOUBLE)
    outputs = torch.zeros_like(inputs)
    for b, c in itertools.product(range(batch), range(channels)):
        for t in range(length):
            d = step_sizes[b, c, t]
            for n in range(rates.shape[1]):
                driven = d * into[b, n, t] * inputs[b, c, t]
                state[b, c, n] = torch.exp(d * rates[c, n]) * state[b, c, n] + driven
                outputs[b, c, t] += out_of[b, n, t] * state[b, c, n]
    return outputs, state


def test_selective_scan_is_the_recurrence():
    given = mamba_arguments() | {"step_sizes": numbers(2, 3, 9, seed=2).exp()}
    outputs, state = selective_scan(**given)
    expected, expected_state = naive_mamba(**given)
    assert_same(outputs, expected)
    assert_same(state, expected_state)


def test_selective_scan_with_all_that_surrounds_it():
    given = mamba_arguments()
    skip, gate, bias = numbers(3, seed=6), numbers(2, 3, 9, seed=7), numbers(3, seed=8)
    outputs, _ = selective_scan(**given, skip=skip, gate=gate, step_bias=bias, softplus=True)
    positive = torch.log1p(torch.exp(given["step_sizes"] + bias[:, None]))
    expected, _ = naive_mamba(**given | {"step_sizes": positive})
    expected = (expected + skip[:, None] * given["inputs"]) * gate / (1 + torch.exp(-gate))
    assert_same(outputs, expected)


def test_selective_scan_has_the_gradients_of_the_recurrence():
    given = {name: value.requires_grad_() for name, value in mamba_arguments(4).items()}
    assert torch.autograd.gradcheck(lambda *values: selective_scan(*values, softplus=True), [*given.values()])


def mamba2_arguments(length, heads=4, groups=2, width=3, states=5):
    return {
        "inputs": numbers(2, length, heads, width, seed=1),
        "step_sizes": numbers(2, length, heads, seed=2),
        "rates": -numbers(heads, seed=3).exp(),
        "into": numbers(2, length, groups, states, seed=4),
        "out_of": numbers(2, length, groups, states, seed=5),
    }


def naive_mamba2(inputs, step_sizes, rates, into, out_of, state=None):
    batch, length, heads, width = inputs.shape
    shared = heads // into.shape[2]
    state = torch.zeros(batch, heads, width, into.shape[3], dtype=DOUBLE) if state is None else state.clone()
    outputs = torch.zeros_like(inputs)
    for b, t, h in itertools.product(range(batch), range(length), range(heads)):
        d, group = step_sizes[b, t, h], h // shared
        state[b, h] *= torch.exp(d * rates[h])
        state[b, h] += d * torch.outer(inputs[b, t, h], into[b, t, group])
        outputs[b, t, h] = state[b, h] @ out_of[b, t, group]
    return outputs, state


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
def test_chunk_scan_is_the_recurrence_whatever_the_length(length):
    given = mamba2_arguments(length)
    given["step_sizes"] = given["step_sizes"].exp()
    initial = numbers(2, 4, 3, 5, seed=9)
    outputs, state = chunk_scan(**given, initial_states=initial)
    expected, expected_state = naive_mamba2(**given, state=initial)
    assert_same(outputs, expected)
    assert_same(state, expected_state)


@pytest.mark.parametrize("skip_shape", [(4,), (4, 3)])
def test_chunk_scan_with_all_that_surrounds_it(skip_shape):
    given = mamba2_arguments(7)
    skip, gate, bias = numbers(*skip_shape, seed=6), numbers(2, 7, 4, 3, seed=7), numbers(4, seed=8)
    outputs, _ = chunk_scan(
        **given, skip=skip, gate=gate, step_bias=bias, softplus=True, step_limits=(0.3, 0.9)
    )
    positive = torch.log1p(torch.exp(given["step_sizes"] + bias))
    assert positive.min() < 0.3
    assert positive.max() > 0.9
    expected, _ = naive_mamba2(**given | {"step_sizes": positive.clamp(0.3, 0.9)})
    expected += given["inputs"] * (skip if skip.dim() > 1 else skip[:, None])
    assert_same(outputs, expected * gate / (1 + torch.exp(-gate)))


def test_chunk_scan_has_the_gradients_of_the_recurrence():
    given = {name: value.requires_grad_() for name, value in mamba2_arguments(3, width=2, states=2).items()}
    assert torch.autograd.gradcheck(lambda *values: chunk_scan(*values, softplus=True), [*given.values()])


@pytest.mark.parametrize("scan", ["mamba", "mamba2"])
def test_scans_in_half_precision_keep_their_dtype_and_compute_finer(scan):
    run, given = {
        "mamba": (selective_scan, mamba_arguments(100)),
        "mamba2": (chunk_scan, mamba2_arguments(100)),
    }[scan]
    rounded = {name: value.to(torch.bfloat16) for name, value in given.items()}
    outputs, _ = run(**rounded, softplus=True)
    expected, _ = run(**{name: value.double() for name, value in rounded.items()}, softplus=True)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs, expected.to(torch.bfloat16), rtol=2**-7, atol=1e-6)


def test_strong_decay_over_a_whole_chunk_stays_finite():
    given = mamba2_arguments(200) | {"step_sizes": torch.full((2, 200, 4), 100.0, dtype=DOUBLE)}
    outputs, state = chunk_scan(**given)
    assert outputs.isfinite().all()
    assert_same(outputs, naive_mamba2(**given)[0])
    assert state.isfinite().all()


@pytest.mark.parametrize("is_rms_norm", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_add_and_normalise(is_rms_norm, with_residual):
    hidden, weight, bias = numbers(2, 5, 8, seed=1), numbers(8, seed=2), numbers(8, seed=3)
    residual = numbers(2, 5, 8, seed=4) if with_residual else None
    normal, total = add_and_normalise(
        hidden, weight, bias, residual, eps=0.1, residual_in_fp32=False, is_rms_norm=is_rms_norm
    )
    expected = hidden + residual if with_residual else hidden
    assert_same(total, expected)
    centred = expected if is_rms_norm else expected - expected.mean(-1, keepdim=True)
    scale = torch.sqrt(centred.square().mean(-1, keepdim=True) + 0.1)
    assert_same(normal, centred / scale * weight + bias)


@pytest.mark.parametrize(
    ("residual_dtype", "in_fp32", "expected"),
    [
        (None, True, torch.float32),
        (None, False, torch.bfloat16),
        (torch.float32, False, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
    ],
)
def test_dtype_of_the_residual_that_a_norm_returns(residual_dtype, in_fp32, expected):
    hidden, weight = numbers(1, 2, 8, dtype=torch.bfloat16), torch.ones(8, dtype=torch.bfloat16)
    residual = None if residual_dtype is None else torch.zeros(1, 2, 8, dtype=residual_dtype)
    normal, total = add_and_normalise(
        hidden, weight, None, residual, eps=1e-5, residual_in_fp32=in_fp32, is_rms_norm=True
    )
    assert (normal.dtype, total.dtype) == (torch.bfloat16, expected)


@pytest.mark.parametrize("norm_before_gate", [True, False])
@pytest.mark.parametrize("group_size", [None, 4])
def test_gated_rms_norm(norm_before_gate, group_size):
    hidden, weight, gate = numbers(3, 8, seed=1), numbers(8, seed=2), numbers(3, 8, seed=3)
    given = {"eps": 0.1, "group_size": group_size, "norm_before_gate": norm_before_gate}
    opened = gate / (1 + torch.exp(-gate))
    before = hidden if norm_before_gate else hidden * opened
    expected = torch.empty_like(before)
    size = group_size or 8
    for start in range(0, 8, size):
        part = before[:, start : start + size]
        scale = torch.sqrt(part.square().mean(-1, keepdim=True) + 0.1)
        expected[:, start : start + size] = part / scale * weight[start : start + size]
    assert_same(gated_rms_norm(hidden, weight, gate, **given), expected * (opened if norm_before_gate else 1))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_embedding_turns_pairs_by_their_position(interleaved):
    q, kv = numbers(1, 3, 2, 8), numbers(1, 3, 2, 1, 8, seed=1)
    turned_q, turned_kv = RotaryEmbedding(6, base=100.0, interleaved=interleaved)(q, kv, seqlen_offset=5)
    for t, pair in itertools.product(range(3), range(3)):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 3)
        angle = torch.tensor((5 + t) / 100.0 ** (2 * pair / 6), dtype=DOUBLE)
        for before, after in ((q[0, t], turned_q[0, t]), (kv[0, t, 0], turned_kv[0, t, 0])):
            x, y = before[:, first], before[:, second]
            expected = torch.stack((x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()))
            torch.testing.assert_close(after[:, [first, second]].T, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(turned_q[..., 6:], q[..., 6:])
    assert torch.equal(turned_kv[:, :, 1], kv[:, :, 1])


@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv_and_its_steps(activation):
    x, weight, bias = numbers(2, 3, 6, seed=1), numbers(3, 4, seed=2), numbers(3, seed=3)
    expected = torch.zeros_like(x)
    for t, k in itertools.product(range(6), range(4)):
        if t - k >= 0:
            expected[:, :, t] += x[:, :, t - k] * weight[:, 3 - k]
    expected += bias[:, None]
    expected = expected if activation is None else expected / (1 + torch.exp(-expected))
    assert_same(causal_conv(x, weight, bias, activation=activation), expected)
    state = torch.zeros(2, 3, 4, dtype=DOUBLE)
    steps = [causal_conv_step(x[:, :, t], state, weight, bias, activation) for t in range(6)]
    assert_same(torch.stack(steps, dim=-1), expected)


def test_packed_sequences_are_refused_by_the_convolution():
    with pytest.raises(ValueError, match="seq_idx"):
        causal_conv(numbers(1, 3, 6), numbers(3, 4), seq_idx=torch.zeros(1, 6))
