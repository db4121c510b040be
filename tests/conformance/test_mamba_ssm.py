"""The adapter for the mamba-ssm package passes the whole kit, and computes what transformers computes."""

import copy
from functools import partial

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

from shapcut.testing import CHECKS, Case, cases, run_check
from shapcut_adapters.mamba_ssm.adapter import MambaSSMAdapter
from shapcut_adapters.mamba_ssm.examples import EXAMPLES, tiny_model
from shapcut_adapters.shared.random_weights import perturb, seeded

ROTARY = {
    "attn_layer_idx": [0, 3, 5],
    "attn_cfg": {"num_heads": 4, "causal": True, "rotary_emb_dim": 4, "mlp_dim": 64},
}


class AttentionFirstAndLast(MambaSSMAdapter):
    """Claims one more kind of hybrid, whose first and last blocks are attention."""

    def examples(self):
        return {"mamba-rotary-attention": partial(tiny_model, ROTARY)}


@pytest.fixture(scope="module")
def mamba_cases() -> dict[str, Case]:
    adapters = (MambaSSMAdapter(), AttentionFirstAndLast())
    return {case.name: case for adapter in adapters for case in cases(adapter, seed=0)}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("example", [*EXAMPLES, "mamba-rotary-attention"])
def test_conformance(mamba_cases, example, check):
    result = run_check(mamba_cases[example], check)
    assert result.passed, result.detail


SHARED = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 6, "state_size": 8, "expand": 2}


def transformers_mamba():
    config = MambaConfig(**SHARED, time_step_rank=2, use_bias=True, residual_in_fp32=True)
    return MambaForCausalLM(config), {"ssm_cfg": {"d_state": 8, "dt_rank": 2, "bias": True}}


def transformers_mamba2():
    config = Mamba2Config(**SHARED, head_dim=8, num_heads=8, n_groups=1, chunk_size=4, rms_norm=True)
    fields = {"layer": "Mamba2", "d_state": 8, "headdim": 8}
    return Mamba2ForCausalLM(config), {"ssm_cfg": fields, "tie_embeddings": config.tie_word_embeddings}


def logits_of_transformers(model, tokens):
    with torch.no_grad():
        return model.eval()(tokens, use_cache=False).logits


def assert_same(logits, expected):
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("make", [transformers_mamba, transformers_mamba2])
@pytest.mark.parametrize("length", [1, 12, 90])
def test_logits_are_those_of_transformers_from_the_same_weights(make, fused, length):
    with seeded(0):
        theirs, fields = make()
    perturb(theirs, torch.Generator().manual_seed(1))
    model, _ = tiny_model(fields | {"fused_add_norm": fused}, 0)
    model.load_state_dict(
        {name.replace("embeddings", "embedding"): value for name, value in theirs.state_dict().items()}
    )
    tokens = torch.randint(96, (2, length), generator=torch.Generator().manual_seed(2))
    adapter = MambaSSMAdapter()
    assert_same(adapter.logits(model, tokens), logits_of_transformers(theirs, tokens))
    with adapter.bypass(model, {0, 2, 4}):
        fewer = adapter.logits(model, tokens)
    del theirs.backbone.layers[5], theirs.backbone.layers[3], theirs.backbone.layers[1]
    assert_same(fewer, logits_of_transformers(theirs, tokens))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("example", EXAMPLES)
def test_zeros_as_the_first_residual_change_nothing_bit_for_bit(example, dtype):
    model, tokens = tiny_model(EXAMPLES[example], 0)
    adapter, model = MambaSSMAdapter(), model.to(dtype)
    stack = adapter.stack(model)
    for present in ({0, 1, 2, 3, 4, 5}, {1, 4}, {5}, set()):
        with torch.inference_mode(), adapter.bypass(model, present):
            state = stack.prelude(tokens)
            for index in sorted(present):
                state = stack.step(index, state)
            assert torch.equal(stack.readout(state), adapter.logits(model, tokens))


@pytest.mark.parametrize(
    "changes",
    [
        ROTARY,
        {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 4, "causal": True}},
        {"attn_layer_idx": [2], "attn_cfg": {"num_heads": 2, "num_heads_kv": 1, "causal": True, "d_conv": 4}},
        {"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 8, "dt_limit": [0.4, 0.6]}},
        {"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 8, "rmsnorm": False, "d_ssm": 32}},
    ],
    ids=["rotary", "plain", "convolution", "limited-steps", "partly-mlp"],
)
def test_states_change_no_token(changes):
    model, tokens = tiny_model(changes, 3)
    adapter = MambaSSMAdapter()
    cached = adapter.generate(model, tokens, 9, use_cache=True)
    uncached = adapter.generate(model, tokens, 9, use_cache=False)
    assert cached.shape == (3, 21)
    assert torch.equal(cached, uncached)
    assert len(cached[:, 12:].unique()) > 5


def test_prompts_shorter_than_the_convolution():
    model, tokens = MambaSSMAdapter().example(0)
    first = tokens[:, :1]
    expected = MambaSSMAdapter().generate(model, first, 6, use_cache=False)
    assert torch.equal(MambaSSMAdapter().generate(model, first, 6, use_cache=True), expected)


def test_states_may_be_kept_while_blocks_are_bypassed():
    model, tokens = tiny_model(EXAMPLES["mamba2-attention-mlp"], 0)
    adapter = MambaSSMAdapter()
    with adapter.bypass(model, {1, 2, 5}):
        bypassed = adapter.generate(model, tokens, 5, use_cache=True)
    removed = adapter.remove(model, {0, 3, 4})
    assert torch.equal(bypassed, adapter.generate(removed, tokens, 5, use_cache=False))


def test_removal_renumbers_blocks_mixers_and_attention():
    model, _ = tiny_model(EXAMPLES["mamba2-attention-mlp"], 0)
    shared = model.config.attn_layer_idx
    vars(model)["_decoding_cache"] = "graphs of six blocks"
    MambaSSMAdapter().remove(model, {0, 1})
    assert model.config.n_layer == 4
    assert model.config.attn_layer_idx == [2]
    assert shared == [1, 4]
    assert [block.layer_idx for block in model.backbone.layers] == [0, 1, 2, 3]
    assert [block.mixer.layer_idx for block in model.backbone.layers] == [0, 1, 2, 3]
    assert [type(block.mixer).__name__ for block in model.backbone.layers][2] == "MHA"
    assert not hasattr(model, "_decoding_cache")


def test_gradients_flow_past_a_bypassed_block():
    model, tokens = tiny_model(EXAMPLES["mamba2-attention-mlp"], 0)
    with MambaSSMAdapter().bypass(model, {0, 1, 3, 4, 5}):
        model(tokens).logits.logsumexp(-1).sum().backward()
    layers = model.backbone.layers
    assert all(parameter.grad is None for parameter in layers[2].parameters())
    for index in (0, 1, 3, 4, 5):
        assert all(parameter.grad is not None for parameter in layers[index].parameters())


def test_other_models_do_not_match():
    adapter = MambaSSMAdapter()
    model, _ = adapter.example(0)
    theirs, _ = transformers_mamba()
    assert adapter.matches(model)
    assert not adapter.matches(model.backbone)
    assert not adapter.matches(theirs)
    short = copy.deepcopy(model)
    del short.backbone.layers[0]
    assert not adapter.matches(short)


def test_fused_paths_that_need_a_gpu_are_left_alone(monkeypatch):
    """As if causal-conv1d were installed: its functions would refuse tensors that are not on a GPU."""
    from mamba_ssm.modules import mamba2, mamba_simple, mha  # noqa: PLC0415 - importable by now

    from shapcut_adapters.mamba_ssm.kernels.cpu_kernels import install_cpu_paths  # noqa: PLC0415

    def fail(*given, **options):
        raise AssertionError("a kernel was called")

    examples = [tiny_model(EXAMPLES[name], 0) for name in ("mamba", "mamba2", "mamba2-attention-mlp")]
    adapter = MambaSSMAdapter()
    expected = [adapter.logits(*example) for example in examples]
    tokens = [adapter.generate(*example, 3, use_cache=True) for example in examples]
    for module in (mamba_simple, mamba2, mha):
        monkeypatch.setattr(module, "causal_conv1d_fn", fail)
        monkeypatch.setattr(module, "causal_conv1d_update", fail)
    install_cpu_paths()
    for example, logits, ids in zip(examples, expected, tokens, strict=True):
        assert_same(adapter.logits(*example), logits)
        assert torch.equal(adapter.generate(*example, 3, use_cache=True), ids)
    mixer = examples[1][0].backbone.layers[0].mixer
    assert mixer.use_mem_eff_path
