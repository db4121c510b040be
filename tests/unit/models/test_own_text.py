import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from shapcut.data.mixture import check_source, with_own_text
from shapcut.host.host import build_host
from shapcut.host.open_model import find_model, open_model
from shapcut.models import own_text as written
from shapcut.models.adapter import Adapter
from shapcut.models.own_text import own_text
from shapcut.pipeline.windows import RunText
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.support.progress import Silent


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few documents, in a cache of the test's own."""
    monkeypatch.setenv("SHAPCUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(written, "_DOCUMENTS", 6)
    monkeypatch.setattr(written, "_AT_ONCE", 3)
    monkeypatch.setattr(written, "_MOST_TOKENS", 40)


def made(model: LlamaForCausalLM, tokenizer: Any, adapter: Adapter, seed: int = 0, **options: Any) -> Path:
    options = {"max_length": None, "reporter": Silent()} | options
    return own_text(model, tokenizer, adapter, seed=seed, **options)


def test_text_is_written_once_for_a_model_and_a_seed(
    tiny_llama_model: LlamaForCausalLM,
    tokenizer: Any,
    llama_adapter: Adapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = made(tiny_llama_model, tokenizer, llama_adapter)
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    assert 1 < len(set(documents)) <= 6
    other = made(tiny_llama_model, tokenizer, llama_adapter, seed=1)
    assert other.read_text() != file.read_text()
    monkeypatch.setattr(Adapter, "sample", lambda *_, **__: pytest.fail("written again"))
    assert made(tiny_llama_model, tokenizer, llama_adapter) == file
    with torch.no_grad():
        tiny_llama_model.lm_head.weight[0, 0] += 1
    with pytest.raises(pytest.fail.Exception):
        made(tiny_llama_model, tokenizer, llama_adapter)


def test_a_short_context_bounds_the_documents(
    tiny_llama_model: LlamaForCausalLM, tokenizer: Any, llama_adapter: Adapter
) -> None:
    file = made(tiny_llama_model, tokenizer, llama_adapter, max_length=9)
    texts = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(0 < len(text) <= 9 for text in texts)


def test_sampling_is_repeatable_and_leaves_the_random_state(
    tiny_llama_model: LlamaForCausalLM, llama_adapter: Adapter
) -> None:
    begin = torch.full((2, 1), 3)
    before = torch.random.get_rng_state()
    first, again, other = (
        llama_adapter.sample(tiny_llama_model, begin, 12, top_p=0.95, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.shape == (2, 13)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_a_model_that_cannot_sample_is_refused(llama_adapter: Adapter) -> None:
    with pytest.raises(UnsupportedModelError, match="name a text with --calibration"):
        llama_adapter.sample(torch.nn.Linear(2, 2), torch.zeros(1, 1), 4, top_p=0.9, seed=0)


def test_the_own_text_of_a_run_has_its_share_but_is_not_held_out(tiny_llama_directory: Path) -> None:
    host = build_host()
    opened = open_model(host, find_model(host, str(tiny_llama_directory), device="cpu"))
    text = RunText.of("builtin+self", opened, 8, 0, Silent())
    found = text.calibration(4)
    assert found.source == "builtin+self"
    builtin_only = RunText("builtin", opened.tokenizer, 8, 0)
    drawn = {tuple(row) for row in found.input_ids.tolist()}
    assert len(drawn & {tuple(row) for row in builtin_only.calibration(2).input_ids.tolist()}) == 2
    assert text.held_out(3).source == "builtin"
    assert torch.equal(text.held_out(3).input_ids, builtin_only.held_out(3).input_ids)
    assert text.digest() != builtin_only.digest()


def test_own_text_elsewhere_is_refused() -> None:
    check_source("builtin+self", own=True)
    with pytest.raises(InputError, match="for calibration only"):
        check_source("self")


def test_a_cache_folder_that_cannot_stand_in_a_mixture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a+b" / "text.jsonl"
    assert with_own_text("self", file) == str(file)
    with pytest.raises(InputError, match="SHAPCUT_CACHE"):
        with_own_text("builtin+self", file)
