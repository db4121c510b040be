"""What is measured beside perplexity: caches, medians of latency, two models side by side."""

import inspect
import itertools
import mmap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import LlamaForCausalLM

from shapcut.cli.figures import figure_rows, ratios
from shapcut.measurement import latency as latency_module
from shapcut.measurement.cache_size import cache_sizes, tensor_bytes
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.measurement.latency import latency
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.record import ModelMeasurement, TaskScore, changes
from shapcut.measurement.sizes import peak_memory_bytes, restart_peak_memory, weight_bytes
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError, UnsupportedModelError

HEADS, WIDTH, LAYERS = 2, 8, 6  # key-value heads and their width in the tiny Llama


def test_the_cache_of_attention_grows_with_layers_tokens_and_sequences(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM
) -> None:
    found = cache_sizes(llama_adapter, tiny_llama_model, (3, 20), batch_size=2)
    assert found.sizes == tuple(2 * 4 * LAYERS * HEADS * WIDTH * length * 2 for length in (3, 20))
    llama_adapter.remove(tiny_llama_model, [1, 2])
    pruned = cache_sizes(llama_adapter, tiny_llama_model, (3, 20), batch_size=2)
    assert [6 * size for size in pruned.sizes] == [4 * size for size in found.sizes]


def test_a_packed_weight_counts_as_what_it_is_packed_into() -> None:
    layer = nn.Linear(8, 4, bias=False)
    layer.register_buffer("scale", torch.ones(4))
    parts = torch.zeros(4, 8, dtype=torch.int8), torch.zeros(4, 8, dtype=torch.int8)
    layer.weight = nn.Parameter(TwoTensor(*parts), requires_grad=False)
    assert weight_bytes(layer) == 2 * 4 * 8 + 4 * 4


def test_tensors_count_once_wherever_they_are() -> None:
    class Cache:
        def __init__(self) -> None:
            self.keys = torch.zeros(3, 5)
            self.layers = [{"state": (self.keys, torch.zeros(2, dtype=torch.float16))}]
            self.itself = self
            self.model = nn.Linear(7, 7)

    assert tensor_bytes(Cache()) == 3 * 5 * 4 + 2 * 2
    assert tensor_bytes([None, "x", 3]) == 0


def test_a_model_without_a_cache_is_named(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_llama_model.forward
    monkeypatch.setattr(
        tiny_llama_model, "forward", lambda **options: whole(**options | {"use_cache": False})
    )
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM returns no cache"):
        cache_sizes(llama_adapter, tiny_llama_model, (3,))


def test_latency_is_the_median(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.chain([9.0], [2.0, 10.0, 1.0, 7.0, 4.0, 100.0])
    monkeypatch.setattr(latency_module, "generation_seconds", lambda *_: next(seconds))
    found = latency(llama_adapter, tiny_llama_model, prompt_tokens=30, new_tokens=2, repeats=3, batch_size=4)
    assert (found.prefill_seconds, found.decode_seconds) == (2.0, 4.0)
    assert found.prefill_tokens_per_second == 4 * 30 / 2.0
    assert found.decode_tokens_per_second == 4 / 4.0


def test_a_run_generates_few_tokens_of_each_model() -> None:
    speed = inspect.signature(measure).parameters["speed"].default
    assert speed.repeats * (speed.new_tokens + 1) <= 36
    assert speed.repeats > 2  # else the median is no better than a mean


def test_peak_memory_can_start_anew() -> None:
    if not restart_peak_memory():
        pytest.skip("this platform cannot start the peak of memory anew")
    with mmap.mmap(-1, 200_000_000) as block:  # not by malloc, which may keep what is freed
        block.write(b"x" * len(block))
        before = peak_memory_bytes()
    assert restart_peak_memory()
    after = peak_memory_bytes()
    assert before is not None
    assert after is not None
    assert before - after > 100_000_000


TEXT = "The quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return str(file)


NO_SPEED = SpeedQuestion(repeats=0)


def measured(
    adapter: Adapter,
    model: LlamaForCausalLM,
    tokenizer: object,
    text: TextQuestion,
    speed: SpeedQuestion = NO_SPEED,
) -> ModelMeasurement:
    held_out, sliding = text.read(tokenizer)
    return measure(adapter, model, held_out, sliding=sliding, speed=speed)


@pytest.mark.parametrize("with_bos", [False, True])
def test_perplexity_of_overlapping_windows_is_that_of_a_plain_loop(
    *,
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    tokenizer: object,
    bos_tokenizer: object,
    text_file: str,
    with_bos: bool,
) -> None:
    used = bos_tokenizer if with_bos else tokenizer
    question = TextQuestion(text_file, whole=True, window=64, windows=5, stride=24)
    found = measured(llama_adapter, tiny_llama_model, used, question)
    ids = torch.tensor(used(TEXT, add_special_tokens=False)["input_ids"][: 5 * 64])  # type: ignore[operator]
    first = torch.tensor([0]) if with_bos else ids[:0]
    width = 64 - len(first)
    nats, scored = [], 0
    for begin in range(0, len(ids), 24):
        end = min(begin + width, len(ids))
        row = torch.cat((first, ids[begin:end]))
        losses = nn.functional.cross_entropy(
            tiny_llama_model(row[None]).logits[0, :-1], row[1:], reduction="none"
        )
        new = min(end - scored, len(losses))
        nats += losses[-new:].tolist()
        scored = end
        if end == len(ids):
            break
    assert found.perplexity.n_tokens == len(nats) == 320 - (not with_bos)
    assert found.perplexity.nats_per_token == pytest.approx(sum(nats) / len(nats), abs=1e-5)
    assert (found.stride, found.sequence_length) == (24, 64)


def test_all_of_the_text_or_its_held_out_part(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, tokenizer: object, text_file: str
) -> None:
    def tokens(*, whole: bool) -> int:
        question = TextQuestion(text_file, whole=whole, window=50, windows=None)
        return measured(llama_adapter, tiny_llama_model, tokenizer, question).perplexity.n_tokens

    assert tokens(whole=True) == len(TEXT) // 50 * 49
    assert tokens(whole=False) < 0.3 * len(TEXT)


@pytest.mark.parametrize("error", [NotImplementedError, ZeroDivisionError, ImportError])
def test_what_a_model_cannot_do_is_a_note(
    *,
    error: type[Exception],
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    tokenizer: object,
    text_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no kernel here")

    monkeypatch.setattr(type(llama_adapter), "generate", fail)
    monkeypatch.setattr("shapcut.measurement.measure.peak_memory_bytes", lambda _: None)
    speed = SpeedQuestion(prompt_tokens=8, new_tokens=2, cache_lengths=(8,))
    question = TextQuestion(text_file, window=32, windows=2)
    found = measured(llama_adapter, tiny_llama_model, tokenizer, question, speed)
    assert found.latency is None
    assert found.caches is not None
    assert found.notes == (
        "no latency: no kernel here",
        "no peak memory: this platform does not report it",
    )


def test_the_prompt_fits_into_the_model() -> None:
    fitted = SpeedQuestion(prompt_tokens=128, new_tokens=16, cache_lengths=(128, 512)).within(64)
    assert (fitted.prompt_tokens, fitted.cache_lengths) == (47, (64,))
    assert SpeedQuestion().within(None) == SpeedQuestion()


@pytest.mark.parametrize(("window", "stride"), [(300, None), (64, 0), (64, 65), (1, None)])
def test_windows_that_make_no_sense_are_refused(window: int, stride: int | None) -> None:
    with pytest.raises(InputError):
        TextQuestion("builtin", window=window, stride=stride).check(256)


def test_two_models_side_by_side(
    llama_adapter: Adapter, tiny_llama_model: LlamaForCausalLM, tokenizer: object, text_file: str
) -> None:
    def measurement() -> ModelMeasurement:
        question = TextQuestion(text_file, window=32, windows=4)
        speed = SpeedQuestion(repeats=0, cache_lengths=(16,))
        return measured(llama_adapter, tiny_llama_model, tokenizer, question, speed)

    dense = measurement()
    llama_adapter.remove(tiny_llama_model, [0, 1, 2])
    score = TaskScore(task="quiz", samples=3, shots=0, metrics={"acc": 0.5}, errors={"acc": 0.1})
    pruned = measurement().model_copy(update={"tasks": (score,)})
    both = [dense, pruned]
    assert ratios(both)["cache_bytes_16"] == pytest.approx(0.5)
    assert ratios(both)["nats_per_token"] == pytest.approx(
        pruned.perplexity.nats_per_token / dense.perplexity.nats_per_token
    )
    rows = {row[0]: row[1:] for row in figure_rows(both)}
    assert rows["cache after 16 tokens (MB)"] == ["0.012", "0.006", "0.500", ""]
    assert rows["text"][:2] == [text_file, text_file]
    interval = pruned.perplexity.interval
    assert interval is not None
    assert rows["its 95 % interval"][1] == f"{interval.low:.3f} to {interval.high:.3f}"
    ratio = changes(dense, pruned)["perplexity.perplexity"]
    assert ratio.interval is not None
    assert f"{ratio.interval.low:.3f} to {ratio.interval.high:.3f}" in rows["perplexity"][-1]
    elsewhere = pruned.model_copy(update={"held_out_fingerprint": "other"})
    assert changes(dense, elsewhere) == {}
    assert "tokens" not in ratios(both)
    assert {len(row) for row in figure_rows([dense])} == {2}
