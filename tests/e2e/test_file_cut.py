"""The cut of a checkpoint as a file operation: bytes, formats and everything beside the weights are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from heard import Heard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.pipeline.prune import apply_plan
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.support.quiet import quiet_libraries

SIZE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
NOT_COPIED = ("pytorch_model.bin", ".gitattributes", "consolidated.safetensors", "shapcut-demo.json")
IDS = torch.arange(2, 42).reshape(2, 20)


def build(
    directory: Path, tokenizer: Any, model_type: str = "llama", shards: str = "50GB", **fields: Any
) -> Path:
    config = AutoConfig.for_model(model_type, **{**SIZE, "num_hidden_layers": 5, **fields})
    with torch.random.fork_rng(), quiet_libraries():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.to(torch.bfloat16).save_pretrained(directory, max_shard_size=shards)
        tokenizer.save_pretrained(directory)
    return directory


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()
    }


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def cut(
    source: Path,
    out: Path,
    removed: tuple[int, ...] = (1, 3),
    depth: int = 5,
    reporter: Reporter | None = None,
    **more: Any,
) -> Path:
    options = {"samples": 4, "sequence_length": 32, "finalist_samples": 0, "held_out_samples": 2, **more}
    recipe = make_recipe({"model": str(source), "remove": len(removed), **options})
    apply_plan(recipe, RemovalPlan.removing(removed, depth), out, build_host(), reporter=reporter)
    return out


def raw(directory: Path) -> dict[str, bytes]:
    """The bytes of every tensor, in whatever format."""
    found: dict[str, bytes] = {}
    for file in directory.glob("*.safetensors"):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            found[name] = content[start + first : start + end]
    return found


def old_name(name: str, kept: tuple[int, ...] = (0, 2, 4)) -> str:
    parts = name.split(".")
    if "layers" in parts:
        place = parts.index("layers") + 1
        new = int(parts[place])
        parts[place] = str(kept[new] if new < len(kept) else 5 + new - len(kept))
    return ".".join(parts)


def require_bytes_of(source: Path, out: Path) -> None:
    before, after = raw(source), raw(out)
    assert after
    assert all(before[old_name(name)] == content for name, content in after.items())


def bypassed(source: Path, removed: tuple[int, ...] = (1, 3)) -> torch.Tensor:
    """Logits of plain transformers with layers that return their input."""
    with quiet_libraries():
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
    for index in removed:
        model.model.layers[index].forward = lambda hidden_states, *_, **__: hidden_states
    with torch.no_grad():
        return model(IDS, use_cache=False).logits.float()


def reloaded(out: Path) -> torch.Tensor:
    with quiet_libraries(), torch.no_grad():
        model: Any = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
        return model(IDS, use_cache=False).logits.float()


def test_shards_stay_shards_and_float32_norms_in_a_bfloat16_model_stay(
    tokenizer: Any, tmp_path: Path
) -> None:
    source = build(tmp_path / "source", tokenizer, shards="30KB")
    files = sorted(file.name for file in source.glob("*.safetensors"))
    for file in source.glob("*.safetensors"):
        content = load_file(file)
        save_file({n: t.float() if "norm" in n else t for n, t in content.items()}, file, {"format": "pt"})
    out = cut(source, tmp_path / "out")
    require_bytes_of(source, out)
    assert len(files) > 2
    assert {file.name for file in out.glob("*.safetensors")} <= set(files)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == raw(out).keys()
    assert index["metadata"]["total_size"] == sum(map(len, raw(out).values()))
    with safe_open(out / index["weight_map"]["model.norm.weight"], "pt") as stored:
        assert stored.get_tensor("model.norm.weight").dtype == torch.float32
    assert torch.equal(reloaded(out), bypassed(source))


def test_what_lies_beside_the_weights_comes_along(tokenizer: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source", tokenizer)
    beside = (
        "LICENSE",
        "USE_POLICY.md",
        "preprocessor_config.json",
        "chat_template.jinja",
        "modeling_own.py",
    )
    for name in beside:
        (source / name).write_text(f"the text of {name}")
    (tmp_path / "secret").write_text("outside")
    (source / "NOTICE").symlink_to(tmp_path / "secret")
    for name in ("README.md", *NOT_COPIED):
        (source / name).write_text("not for a copy")
    (source / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text() + "\n\n")
    out = cut(source, tmp_path / "out")
    assert {name: (out / name).read_text() for name in beside} == {n: f"the text of {n}" for n in beside}
    assert (out / "tokenizer_config.json").read_bytes() == (source / "tokenizer_config.json").read_bytes()
    left = ("NOTICE", *NOT_COPIED)
    assert not any((out / name).exists() for name in left)
    assert (out / "README.md").read_text() != "not for a copy"


def test_what_lies_beside_comes_along_when_a_step_changes_the_weights(tokenizer: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source", tokenizer)
    (source / "LICENSE").write_text("terms")
    out = cut(source, tmp_path / "out", then=["cast:dtype=float16"])
    assert (out / "LICENSE").read_text() == "terms"
    assert tensors(out)["model.norm.weight"].dtype == torch.float16


@pytest.fixture
def with_predictor(tokenizer: Any, tmp_path: Path) -> Path:
    """A model with one more layer, numbered after the last one, that predicts a further token."""
    source = build(
        tmp_path / "source", tokenizer, "deepseek_v3", q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2,
        moe_intermediate_size=24, first_k_dense_replace=2, num_key_value_heads=4, num_nextn_predict_layers=1,
    )  # fmt: skip
    content = load_file(source / "model.safetensors")
    more = {n.replace("layers.4.", "layers.5."): t.clone() for n, t in content.items() if "layers.4." in n}
    more["model.layers.5.eh_proj.weight"] = torch.ones(32, 64)
    save_file({**content, **more}, source / "model.safetensors", {"format": "pt"})
    edit(source / "config.json", num_nextn_predict_layers=1)
    return source


def test_layers_that_predict_further_tokens_are_kept_behind_the_last(
    with_predictor: Path, tmp_path: Path
) -> None:
    out = cut(with_predictor, tmp_path / "out")
    require_bytes_of(with_predictor, out)
    assert "model.layers.3.eh_proj.weight" in raw(out)
    config = json.loads((out / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 1
    assert config["first_k_dense_replace"] == 1
    assert torch.equal(reloaded(out), bypassed(with_predictor))
    again = cut(out, tmp_path / "again", (0,), 3)
    assert "model.layers.2.eh_proj.weight" in raw(again)


def test_files_of_weights_that_are_not_read_are_left_with_a_line(tmp_path: Path, tokenizer: Any) -> None:
    source = build(tmp_path / "source", tokenizer, shards="20KB")
    save_file({"of_another_format": torch.zeros(2)}, source / "consolidated.safetensors")
    (source / "training_args.bin").write_bytes(b"pickled")
    heard = Heard()
    out = cut(source, tmp_path / "out", reporter=heard)
    left = "left: consolidated.safetensors, training_args.bin; no weights of the model are read from there"
    assert left in heard.said
    assert not {"consolidated.safetensors", "training_args.bin"} & {file.name for file in out.iterdir()}


def test_layers_that_predict_further_tokens_are_dropped_with_a_line(
    with_predictor: Path, tmp_path: Path
) -> None:
    heard = Heard()
    out = cut(with_predictor, tmp_path / "out", reporter=heard, dtype="float32")
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0
    assert not any("layers.3." in name for name in raw(out))
    assert any("predict further tokens are not written" in line for line in heard.said)


FITTED = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def require_only_fitted_changed(source: Path, out: Path) -> None:
    """Compensation changes projections of blocks; everything else keeps its bytes."""
    before, after = raw(source), raw(out)
    changed = {name for name, content in after.items() if before[old_name(name)] != content}
    assert changed
    assert all(name.endswith(FITTED) for name in changed)


UNTRIED = {"then": ["compensate:trial=false"], "samples": 8}


def test_a_compensated_cut_keeps_shards_and_number_formats(tokenizer: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source", tokenizer, shards="30KB")
    for file in source.glob("*.safetensors"):
        content = load_file(file)
        save_file({n: t.float() if "norm" in n else t for n, t in content.items()}, file, {"format": "pt"})
    out = cut(source, tmp_path / "out", **UNTRIED)
    require_only_fitted_changed(source, out)
    assert {file.name for file in out.glob("*.safetensors")} <= {
        file.name for file in source.glob("*.safetensors")
    }
    assert tensors(out)["model.norm.weight"].dtype == torch.float32
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == raw(out).keys()


def test_a_compensated_cut_keeps_layers_that_predict_further_tokens(
    with_predictor: Path, tmp_path: Path
) -> None:
    heard = Heard()
    out = cut(with_predictor, tmp_path / "out", reporter=heard, **UNTRIED)
    require_only_fitted_changed(with_predictor, out)
    assert "model.layers.3.eh_proj.weight" in raw(out)
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 1
    assert not any("not written" in line for line in heard.said)


def test_a_run_killed_after_its_step_writes_the_same_files(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build(tmp_path / "source", tokenizer, shards="30KB")
    expected = raw(cut(source, tmp_path / "whole", **UNTRIED))
    monkeypatch.setattr("shapcut.pipeline.cut.measure_cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut(source, tmp_path / "out", **UNTRIED)
    monkeypatch.undo()
    heard = Heard()
    out = cut(source, tmp_path / "out", reporter=heard, **UNTRIED)
    assert any("was finished by an earlier start" in line for line in heard.said)
    assert raw(out) == expected
    assert len(list(out.glob("*.safetensors"))) > 2


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_count_of_predicting_layers_without_their_weights_becomes_0(
    with_predictor: Path, tmp_path: Path
) -> None:
    content = load_file(with_predictor / "model.safetensors")
    few = {name: tensor for name, tensor in content.items() if "layers.5." not in name}
    save_file(few, with_predictor / "model.safetensors", {"format": "pt"})
    out = cut(with_predictor, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0


def block_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and one scale for each block of 16 by 16."""
    rows, columns = weight.shape[0] // 16, weight.shape[1] // 16
    blocks = weight.float().reshape(rows, 16, columns, 16)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return codes, scales


@pytest.fixture
def fp8(tokenizer: Any, tmp_path: Path) -> Path:
    source = build(tmp_path / "fp8", tokenizer, "qwen3", max_window_layers=5)
    content: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        content[name] = tensor
        if name.endswith("_proj.weight"):
            content[name], content[f"{name}_scale_inv"] = block_fp8(tensor)
    save_file(content, source / "model.safetensors", {"format": "pt"})
    edit(
        source / "config.json",
        quantization_config={
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [16, 16],
            "modules_to_not_convert": [
                "lm_head",
                "model.layers.1.input_layernorm",
                "model.layers.4.input_layernorm",
            ],
        },
    )
    return source


def test_block_fp8_is_cut_in_its_own_format(fp8: Path, tmp_path: Path) -> None:
    out = cut(fp8, tmp_path / "out")
    require_bytes_of(fp8, out)
    assert tensors(out)["model.layers.2.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
    quantization = json.loads((out / "config.json").read_text())["quantization_config"]
    assert quantization["modules_to_not_convert"] == ["lm_head", "model.layers.2.input_layernorm"]
    assert quantization["weight_block_size"] == [16, 16]
    assert torch.equal(reloaded(out), bypassed(fp8))


def test_mxfp4_is_cut_in_its_own_format(tokenizer: Any, tmp_path: Path) -> None:
    source = build(
        tmp_path / "source", tokenizer, "gpt_oss", num_local_experts=4, num_experts_per_tok=2,
        sliding_window=8, intermediate_size=32, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        layer_types=["sliding_attention", "full_attention"] * 2 + ["full_attention"],
    )  # fmt: skip
    content = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in content if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = content.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        content[f"{name}_blocks"] = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
        content[f"{name}_scales"] = torch.full(shape, 124, dtype=torch.uint8)
    save_file(content, source / "model.safetensors", {"format": "pt"})
    edit(
        source / "config.json",
        quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    )
    out = cut(source, tmp_path / "out")
    require_bytes_of(source, out)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "mxfp4"
    assert torch.equal(reloaded(out), bypassed(source))


def test_a_quantized_checkpoint_that_cannot_be_cut_as_files_is_refused_before_any_work(
    fp8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shapcut_adapters.transformers.adapter.files_objection", lambda *_: "its layers are somewhere else"
    )
    heard = Heard()
    with pytest.raises(InputError, match="is quantized and cannot be cut in its own format: its layers"):
        cut(fp8, tmp_path / "out", reporter=heard)
    assert not heard.said
    assert not (tmp_path / "out").exists()
