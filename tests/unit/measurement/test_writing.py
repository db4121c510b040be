"""What two models write, and which texts got worse."""

import math
from typing import Any

import pytest
import torch

from shapcut.data.windows import Calibration
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.writing import Writing, compared_writing, written
from shapcut.models.adapter import Adapter


def test_the_texts_that_got_worse_come_worst_first(tokenizer: Any) -> None:
    windows = torch.tensor([tokenizer(f"text {letter} " * 10)["input_ids"] for letter in "abcde"])
    dense = Writing(continuations=((65,), (66,), (67,)), nats=(1.0, 1.0, 1.0, 1.0, 1.0))
    pruned = Writing(continuations=((68,), (69,), (70,)), nats=(1.5, 0.5, 3.0, 1.0, math.nan))
    found = compared_writing(dense, pruned, windows, tokenizer)
    assert found is not None
    assert [each.text[5] for each in found.worse] == ["e", "c", "a"]
    assert (found.windows, found.grew) == (5, 3)
    assert [each.dense for each in found.continuations] == [
        tokenizer.decode([token]) for token in (65, 66, 67)
    ]
    assert all(each.prompt.startswith("text ") for each in found.continuations)
    assert compared_writing(dense, None, windows, tokenizer) is None
    assert compared_writing(dense, pruned, windows, object()) is None


def test_long_texts_are_cut_to_one_line(tokenizer: Any) -> None:
    windows = torch.tensor([tokenizer("a\nb " * 400)["input_ids"]])
    one = Writing(continuations=((65,),), nats=(1.0,))
    other = Writing(continuations=((65,),), nats=(2.0,))
    found = compared_writing(one, other, windows, tokenizer)
    assert found is not None
    assert "\n" not in found.worse[0].text
    assert len(found.worse[0].text) < 350


def test_a_model_continues_each_window(llama_adapter: Adapter, tiny_llama_model: Any) -> None:
    windows = torch.randint(2, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    found = written(llama_adapter, tiny_llama_model, windows, [1.0, 2.0])
    expected = [
        llama_adapter.generate(tiny_llama_model, window[None, :10], 24, use_cache=True)[0, 10:]
        for window in windows
    ]
    assert found.continuations == tuple(tuple(each.tolist()) for each in expected)
    assert found.nats == (1.0, 2.0)


def test_a_measurement_reads_each_window_once(
    llama_adapter: Adapter, tiny_llama_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = torch.randint(2, 250, (3, 20), generator=torch.Generator().manual_seed(0))
    read: list[int] = []
    logits = type(llama_adapter).logits

    def counted(adapter: Adapter, model: Any, input_ids: torch.Tensor) -> torch.Tensor:
        read.append(len(input_ids))
        return logits(adapter, model, input_ids)

    monkeypatch.setattr(type(llama_adapter), "logits", counted)
    text = Calibration(windows, "text.txt", adds_bos=False)
    found = measure(llama_adapter, tiny_llama_model, text, speed=SpeedQuestion(repeats=0), writes=True)
    assert found.writing is not None
    assert found.writing.nats == tuple(found.perplexity.window_means)
    assert sum(read) == len(windows)
