import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from shapcut.data.windows import Calibration
from shapcut.measurement import perplexity as perplexity_module
from shapcut.measurement.latency import LatencyResult, latency
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.perplexity import PerplexityResult, perplexity, sliding_perplexity
from shapcut.measurement.record import ModelMeasurement, changes
from shapcut.measurement.sizes import checkpoint_bytes, parameter_count, peak_memory_bytes, weight_bytes
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError

TOKENS = np.random.default_rng(0).integers(2, 258, size=200)


@pytest.fixture
def windows() -> Tensor:
    return torch.from_numpy(TOKENS[:190].reshape(10, 19))


def token_nats(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Loss of every token but the first, the plain way: shape (batch, length - 1)."""
    logits = model(ids).logits.double()
    return -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("block", [7, 1024])
def test_perplexity_is_that_of_each_window_on_its_own(
    *,
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    windows: Tensor,
    batch_size: int,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(perplexity_module, "TOKEN_BLOCK", block)
    result = perplexity(llama_adapter, tiny_llama_model, windows, batch_size=batch_size)
    expected = float(token_nats(tiny_llama_model, windows).mean())
    assert result.nats_per_token == pytest.approx(expected, abs=1e-5)
    assert result.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    assert result.n_tokens == 10 * 18


def test_the_loss_of_a_16_bit_model_is_summed_in_full_precision(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, windows: Tensor
) -> None:
    model = tiny_llama_model.to(torch.bfloat16)  # type: ignore[arg-type]
    expected = float(token_nats(model, windows).mean())
    assert perplexity(llama_adapter, model, windows).nats_per_token == pytest.approx(expected, abs=1e-5)


def test_no_more_than_one_batch_goes_through_the_model_at_a_time(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, windows: Tensor
) -> None:
    shapes: list[tuple[int, ...]] = []
    tiny_llama_model.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    perplexity(llama_adapter, tiny_llama_model, windows, batch_size=4)
    assert shapes == [(4, 19), (4, 19), (2, 19)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_as_such(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, windows: Tensor, value: float
) -> None:
    tiny_llama_model.lm_head.weight[5] = value
    result = perplexity(llama_adapter, tiny_llama_model, windows)
    assert not result.finite
    assert not math.isfinite(result.perplexity)


def test_a_huge_loss_is_an_infinite_perplexity() -> None:
    result = PerplexityResult.of([8000.0], [10])
    assert (result.perplexity, result.nats_per_token, result.finite) == (math.inf, 800.0, False)
    assert json.loads(result.model_dump_json())["perplexity"] == "Infinity"
    assert PerplexityResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("shape", [(0, 5), (3, 1)])
def test_nothing_to_predict_is_refused(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, shape: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        perplexity(llama_adapter, tiny_llama_model, torch.zeros(shape, dtype=torch.int64))


def sliding_reference(model: LlamaForCausalLM, window: int, stride: int, bos: int | None) -> list[float]:
    """For each token its loss in the first window that holds it, at a position where it is predicted."""
    first = [] if bos is None else [bos]
    width = window - len(first)
    losses: dict[int, float] = {}
    for begin in range(0, len(TOKENS), stride):
        ids = torch.tensor([[*first, *TOKENS[begin : begin + width]]])
        nats = token_nats(model, ids)[0].tolist()
        start = begin + 1 - len(first)
        for position, loss in enumerate(nats, start=start):
            losses.setdefault(position, loss)
        if begin + width >= len(TOKENS):
            break
    return list(losses.values())


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize(("window", "stride"), [(50, 10), (50, 49), (33, 7), (300, 20), (50, 30)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sliding_perplexity_predicts_every_token_once(
    *,
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    window: int,
    stride: int,
    bos: int | None,
    batch_size: int,
) -> None:
    result = sliding_perplexity(
        llama_adapter,
        tiny_llama_model,
        TOKENS,
        window=window,
        stride=stride,
        bos=bos,
        batch_size=batch_size,
    )
    losses = sliding_reference(tiny_llama_model, window, stride, bos)
    assert result.n_tokens == len(losses) == len(TOKENS) - (bos is None)
    assert result.nats_per_token == pytest.approx(float(np.mean(losses)), abs=1e-5)


def test_windows_that_do_not_overlap_only_read_their_first_token(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM
) -> None:
    sliding = sliding_perplexity(llama_adapter, tiny_llama_model, TOKENS, window=40, stride=40)
    plain = perplexity(llama_adapter, tiny_llama_model, torch.from_numpy(TOKENS.reshape(5, 40)))
    assert sliding.n_tokens == plain.n_tokens
    assert sliding.nats_per_token == pytest.approx(plain.nats_per_token, abs=1e-6)


@pytest.mark.parametrize(
    ("tokens", "window", "stride", "bos"),
    [(200, 50, 0, None), (200, 50, 51, None), (200, 50, 50, 0), (200, 1, 1, None), (1, 50, 10, None)],
)
def test_a_stride_that_does_not_fit_is_refused(
    *,
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    tokens: int,
    window: int,
    stride: int,
    bos: int | None,
) -> None:
    with pytest.raises(InputError):
        sliding_perplexity(
            llama_adapter, tiny_llama_model, TOKENS[:tokens], window=window, stride=stride, bos=bos
        )


def test_latency_is_measured_with_a_cache_and_without_an_early_end(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM
) -> None:
    lengths: list[int] = []
    tiny_llama_model.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: lengths.append(inputs[0].shape[1])
    )
    result = latency(llama_adapter, tiny_llama_model, prompt_tokens=20, new_tokens=3, repeats=2, seed=1)
    once = [20, 20, 1, 1, 1]
    assert lengths == [1, 20, 1, *once * 2]
    assert result.prefill_seconds > 0
    assert result.decode_seconds >= 0
    assert (result.prompt_tokens, result.new_tokens, result.repeats) == (20, 3, 2)


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3))
    assert parameter_count(model) == 9 + 9 + 6
    model[1].weight = model[0].weight
    assert parameter_count(model) == 9 + 6
    assert weight_bytes(model) == (9 + 6 + 6) * 4 + 8


def test_only_weight_files_count_as_weights(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 70)
    (tmp_path / "model-2.safetensors").write_bytes(b"x" * 30)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 1000)
    assert checkpoint_bytes(tmp_path) == 100


def test_peak_memory_is_in_bytes() -> None:
    block = np.ones(40_000_000, dtype=np.uint8)
    assert peak_memory_bytes() > block.nbytes
    assert peak_memory_bytes() < 1 << 40


def test_a_measurement_holds_everything_and_survives_json(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, tiny_llama_directory: Path, windows: Tensor
) -> None:
    held_out = Calibration(windows, "text.txt", adds_bos=False)
    speed = SpeedQuestion(repeats=0)
    result = measure(llama_adapter, tiny_llama_model, held_out, speed=speed, files=tiny_llama_directory)
    assert result.parameters == parameter_count(tiny_llama_model)
    assert result.perplexity == perplexity(llama_adapter, tiny_llama_model, windows)
    assert result.checkpoint_bytes == (tiny_llama_directory / "model.safetensors").stat().st_size
    assert (result.held_out_source, result.sequence_length, result.adds_bos) == ("text.txt", 19, False)
    assert result.held_out_fingerprint == held_out.fingerprint
    assert result.latency is None
    assert ModelMeasurement.model_validate_json(result.model_dump_json()) == result


def test_a_measurement_includes_latency_unless_told_otherwise(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, windows: Tensor
) -> None:
    result = measure(llama_adapter, tiny_llama_model, Calibration(windows[:1], "x", adds_bos=False))
    assert result.latency is not None
    assert result.checkpoint_bytes is None


def result(nats: list[float], tokens: list[int]) -> PerplexityResult:
    return PerplexityResult.of([each * n for each, n in zip(nats, tokens, strict=True)], tokens)


def test_a_perplexity_s_interval_is_that_of_its_windows() -> None:
    found = result([2.0, 3.0, 4.0], [9, 9, 9])
    reference = stats.ttest_1samp([2.0, 3.0, 4.0], 0.0).confidence_interval(0.95)
    assert found.interval is not None
    assert math.log(found.interval.low) == pytest.approx(reference.low)
    assert math.log(found.interval.high) == pytest.approx(reference.high)
    assert result([2.0], [9]).interval is None


def test_two_perplexities_are_paired_by_window() -> None:
    dense, pruned = result([2.0, 3.0, 4.0], [9, 9, 5]), result([2.11, 3.1, 4.09], [9, 9, 5])
    ratio = pruned.ratio_to(dense)
    assert ratio is not None
    assert ratio.told_apart  # though both intervals overlap widely
    assert ratio.value == pytest.approx(pruned.perplexity / dense.perplexity)
    other = result([2.0, 3.0], [9, 9]).ratio_to(dense)
    assert other is not None
    assert other.interval is None
    assert result([math.inf], [9]).ratio_to(dense) is None


def test_durations_within_their_spread_are_not_told_apart() -> None:
    def timed(decode: list[float]) -> LatencyResult:
        return LatencyResult(
            prefill_seconds=1.0,
            decode_seconds=float(np.median(decode)),
            prompt_tokens=8,
            new_tokens=4,
            repeats=4,
            prefill_samples=(1.0, 1.0),
            decode_samples=tuple(decode),
        )

    base = ModelMeasurement(
        parameters=1, weight_bytes=1, checkpoint_bytes=None, peak_memory_bytes=None,
        perplexity=result([1.0, 2.0], [3, 3]), held_out_source="text", held_out_fingerprint="f",
        sequence_length=4, adds_bos=False, latency=timed([1.0, 1.1, 0.9, 1.0]),
    )  # fmt: skip
    same = base.model_copy(update={"latency": timed([1.05, 0.95, 1.1, 1.0])})
    fast = base.model_copy(update={"latency": timed([0.5, 0.55, 0.5, 0.45])})
    assert not changes(base, same)["latency.decode_seconds"].told_apart
    assert changes(base, fast)["latency.decode_seconds"].told_apart
