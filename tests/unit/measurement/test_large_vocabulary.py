"""Losses with the logits of a block of the vocabulary at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from shapcut.measurement import perplexity as perplexity_module
from shapcut.measurement.perplexity import perplexity, sliding_perplexity
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

SIZES: dict[str, Any] = {
    "vocab_size": 5000,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
WINDOWS = torch.randint(2, 5000, (5, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval().requires_grad_(requires_grad=False)


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions for which each forward pass gives logits."""
    monkeypatch.setattr(perplexity_module, "LARGE_VOCABULARY", 5000)
    seen: list[int] = []
    logits = HFDecoderAdapter.logits

    def noted(adapter: HFDecoderAdapter, model: nn.Module, input_ids: Tensor) -> Tensor:
        found = logits(adapter, model, input_ids)
        seen.append(found.shape[1])
        return found

    monkeypatch.setattr(HFDecoderAdapter, "logits", noted)
    return seen


def expected(model: Any, ids: Tensor = WINDOWS) -> list[float]:
    logits = model(ids).logits.double()[:, :-1]
    losses = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])
    means: list[float] = losses[..., 0].mean(dim=1).tolist()
    return means


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
def test_a_large_vocabulary_is_read_in_blocks(
    llama: LlamaForCausalLM, positions: list[int], dtype: torch.dtype, rounding: float
) -> None:
    model: Any = llama.to(dtype)  # type: ignore[arg-type]
    found = perplexity(HFDecoderAdapter(), model, WINDOWS, batch_size=2)
    assert found.window_means == pytest.approx(expected(model), abs=rounding)
    assert positions == [1, 1, 1]
    assert model(WINDOWS).logits.shape == (5, 12, 5000)


def test_targets_that_were_predicted_before_do_not_count(
    llama: LlamaForCausalLM, positions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = WINDOWS.flatten().numpy()
    found = sliding_perplexity(HFDecoderAdapter(), llama, tokens, window=20, stride=7)
    assert set(positions) == {1}
    monkeypatch.setattr(perplexity_module, "LARGE_VOCABULARY", 5001)
    plain = sliding_perplexity(HFDecoderAdapter(), llama, tokens, window=20, stride=7)
    assert found.window_tokens == plain.window_tokens
    assert found.window_nats == pytest.approx(plain.window_nats, abs=1e-4)


def test_logits_that_are_more_than_a_linear_map_are_read_as_they_are(positions: list[int]) -> None:
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.05, query_pre_attn_scalar=8))
    model = model.eval().requires_grad_(requires_grad=False)
    found = perplexity(HFDecoderAdapter(), model, WINDOWS, batch_size=2)
    assert found.window_means == pytest.approx(expected(model), abs=1e-5)
    assert positions == [1, 12, 12, 12]


def test_a_damaged_model_is_read_as_it_is(llama: LlamaForCausalLM, positions: list[int]) -> None:
    llama.model.norm.weight[3] = torch.nan
    assert not perplexity(HFDecoderAdapter(), llama, WINDOWS).finite
    assert positions == [1, 12]


def test_a_failure_leaves_the_output_layer_as_it_was(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity_module, "LARGE_VOCABULARY", 5000)
    with pytest.raises(IndexError):
        perplexity(HFDecoderAdapter(), llama, WINDOWS + 5000)
    assert "forward" not in vars(llama.lm_head)
