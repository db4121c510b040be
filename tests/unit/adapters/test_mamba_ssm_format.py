"""Checkpoints of the mamba-ssm package: what is claimed, refused, read and written."""

import json

import pytest
import torch
from safetensors.torch import save_file

from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut_adapters.mamba_ssm.checkpoint import load_model, save_model
from shapcut_adapters.mamba_ssm.examples import EXAMPLES, tiny_model
from shapcut_adapters.mamba_ssm.format import MambaSSMFormat
from shapcut_adapters.mamba_ssm.package import import_mamba_ssm

HYBRID = EXAMPLES["mamba2-attention-mlp"]
ROTARY = {"attn_layer_idx": [2], "attn_cfg": {"num_heads": 4, "causal": True, "rotary_emb_dim": 4}}
CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    model, _ = tiny_model({}, 0)
    tokenizer.save_pretrained(tmp_path)
    save_model(model, tmp_path)
    return tmp_path


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(directory, change):
    path = directory / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def test_its_own_config_is_claimed(checkpoint):
    assert MambaSSMFormat().claims(checkpoint)
    assert MambaSSMFormat().depth(checkpoint) == 6
    MambaSSMFormat().check(checkpoint)


@pytest.mark.parametrize(
    "text", ["{}", '{"n_layer": 2}', "[]", "{", '{"n_layer": 1, "d_model": 8, "model_type": "x"}']
)
def test_other_configs_are_not_claimed(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert not MambaSSMFormat().claims(tmp_path)
    assert not MambaSSMFormat().claims(tmp_path / "config.json")
    assert not MambaSSMFormat().claims(tmp_path / "missing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": "six"}, "n_layer='six'"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"dim": 3}, r"does not know: \['dim'\]"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "layer='Mamba3'"),
        ({"attn_layer_idx": [1], "attn_cfg": {"num_heads": 4}}, "causal"),
    ],
)
def test_configs_that_describe_no_such_model_are_refused(checkpoint, changes, message):
    change_config(checkpoint, **changes)
    with pytest.raises(InputError, match=message):
        MambaSSMFormat().check(checkpoint)


def test_missing_files_are_named(checkpoint):
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="gpt-neox-20b"):
        MambaSSMFormat().check(checkpoint)
    (checkpoint / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"neither pytorch_model\.bin nor model\.safetensors"):
        MambaSSMFormat().check(checkpoint)


def test_the_tokenizer_is_read_with_the_model(checkpoint):
    model, tokenizer = MambaSSMFormat().load(checkpoint, device=CPU, dtype=None)
    assert not model.training
    assert len(tokenizer("abc")["input_ids"]) == 3


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the package leaves it to the collector
@pytest.mark.parametrize("changes", [{}, EXAMPLES["mamba-layer-norm"], EXAMPLES["mamba2"], HYBRID])
def test_the_package_reads_what_is_written(tmp_path, changes):
    model, tokens = tiny_model(changes, 1)
    save_model(model, tmp_path)
    theirs = import_mamba_ssm().MambaLMHeadModel.from_pretrained(str(tmp_path)).eval()
    ours = load_model(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "pytorch_model.bin"]
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(theirs(tokens).logits, expected)
        assert torch.equal(ours(tokens).logits, expected)
    assert theirs.config == model.config


def test_what_the_package_writes_is_read(tmp_path):
    model, tokens = tiny_model(HYBRID, 2)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(tokens).logits, model(tokens).logits)


def test_tied_weights_stay_tied_and_are_written_once(tmp_path):
    model, _ = tiny_model({}, 0)
    save_model(model, tmp_path)
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert weights["lm_head.weight"].data_ptr() == weights["backbone.embedding.weight"].data_ptr()
    loaded = load_model(tmp_path)
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight


def test_safetensors_with_tied_weights_stored_once(checkpoint):
    model, tokens = tiny_model({}, 3)
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, checkpoint / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load_model(checkpoint)(tokens).logits, model(tokens).logits)


def test_each_weight_keeps_its_stored_dtype_unless_another_is_asked_for(tmp_path):
    model, _ = tiny_model({}, 0)
    save_model(model.half(), tmp_path)
    assert {parameter.dtype for parameter in load_model(tmp_path).parameters()} == {torch.float16}
    asked = load_model(tmp_path, dtype=torch.bfloat16)
    mixer = asked.backbone.layers[0].mixer
    assert (mixer.in_proj.weight.dtype, mixer.A_log.dtype, mixer.D.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


def test_parameters_keep_the_marks_that_the_package_gives_them(checkpoint):
    mixer = load_model(checkpoint).backbone.layers[0].mixer
    assert mixer.A_log._no_weight_decay
    assert mixer.D._no_weight_decay


def test_loading_leaves_global_randomness_alone(tmp_path):
    save_model(tiny_model(ROTARY, 0)[0], tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    load_model(tmp_path)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("backbone.norm_f.weight"),
            r"norm_f\.weight has shape none, it is missing",
        ),
        (lambda weights: weights.update(extra=torch.ones(2)), r"extra has shape \(2,\), expected none"),
        (
            lambda weights: weights.update({"backbone.norm_f.weight": torch.ones(3)}),
            r"shape \(3,\), expected",
        ),
        (lambda weights: weights.update({"lm_head.weight": torch.ones(96, 32)}), "they differ"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(checkpoint, change, message):
    change_weights(checkpoint, change)
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(checkpoint)


def test_pickles_that_would_run_code_are_not_opened(checkpoint):
    torch.save({"lm_head.weight": print}, checkpoint / "pytorch_model.bin")
    with pytest.raises(Exception, match="nothing of it was run"):
        load_model(checkpoint)


def test_rotary_attention_is_read_too(tmp_path):
    model, tokens = tiny_model(ROTARY, 0)
    save_model(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(tokens).logits, model(tokens).logits)
