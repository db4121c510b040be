"""Statistics of experts: those of a plain calculation, for every family whose experts can be observed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know

from shapcut.support.errors import UnsupportedModelError
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.experts.players import Experts

ADAPTER = HFDecoderAdapter()
BUILDERS = ADAPTER.examples()


def plainly(model, ids):
    """Statistics of a Qwen3-MoE model, expert by expert from the inputs of its mixtures."""
    found = {"frequency": [], "ean": [], "reap": []}
    mixtures = [mixture for mixture in Experts.of(model).mixtures if mixture is not None]
    inputs = []
    hooks = [m.module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for m in mixtures]
    with torch.inference_mode():
        model(input_ids=ids)
        for mixture, hidden in zip(mixtures, inputs, strict=True):
            tokens = hidden.flatten(0, 1)
            chances = F.linear(tokens, mixture.router.weight).softmax(-1)
            best, chosen = chances.topk(mixture.top_k, dim=-1)
            best = best / best.sum(-1, keepdim=True) if model.config.norm_topk_prob else best
            for expert in range(mixture.count):
                gate, up = (tokens @ mixture.experts.gate_up_proj[expert].T).chunk(2, -1)
                output = (mixture.experts.act_fn(gate) * up) @ mixture.experts.down_proj[expert].T
                routed = (chosen == expert).any(-1)
                norms, weights = output.norm(dim=-1)[routed], best[chosen == expert]
                found["frequency"].append(routed.double().mean().item())
                found["ean"].append(norms.sum().item())
                found["reap"].append((norms * weights).mean().item() if routed.any() else 0.0)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_are_those_of_a_plain_calculation():
    model, ids = BUILDERS["qwen3_moe"](0)
    found, expected = ADAPTER.expert_statistics(model, ids), plainly(model, ids)
    for name in ("frequency", "ean", "reap"):
        assert len(found[name]) == len(ADAPTER.players(model, "expert"))
        assert found[name] == pytest.approx(np.array(expected[name]), rel=1e-4)


def test_the_model_is_left_as_it_was():
    model, ids = BUILDERS["mixtral"](0)
    before = ADAPTER.logits(model, ids)
    ADAPTER.expert_statistics(model, ids)
    assert torch.equal(ADAPTER.logits(model, ids), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss", "longcat_flash", "dbrx", "granitemoe"])
def test_weighted_outputs_of_single_experts_add_up_to_the_mixture(name):
    """So that what is observed of an expert is its part of the output."""
    model, ids = BUILDERS[name](0)
    seen = []
    for mixture in filter(None, Experts.of(model).mixtures):
        mixture.experts.register_forward_hook(
            lambda experts, args, output: seen.append((experts, args, output))
        )
    ADAPTER.logits(model, ids)
    found = ADAPTER.expert_statistics(model, ids)
    assert np.isfinite([*found.values()]).all()
    assert all((values >= 0).all() and values.any() for values in found.values())
    with torch.inference_mode():
        for experts, args, output in seen[: len(seen) // 2]:
            hidden, indices, weights = (each.reshape(-1, each.shape[-1]) for each in args)
            total = torch.zeros_like(hidden)
            for place in range(indices.shape[1]):
                twice = indices[:, [place, place]]
                only = torch.stack([weights[:, place], torch.zeros_like(weights[:, place])], dim=1)
                total += type(experts).forward(experts, hidden, twice, only).reshape(total.shape)
            assert torch.allclose(total, output.reshape(total.shape), atol=1e-5)


@pytest.mark.parametrize("name", ["llama4_text"])
def test_experts_that_are_given_all_tokens_are_refused(name):
    model, ids = BUILDERS[name](0)
    with pytest.raises(UnsupportedModelError, match="cannot be observed"):
        ADAPTER.expert_statistics(model, ids)


def test_a_model_without_experts_is_refused():
    model, ids = BUILDERS["llama"](0)
    with pytest.raises(UnsupportedModelError, match="has no experts"):
        ADAPTER.expert_statistics(model, ids)
