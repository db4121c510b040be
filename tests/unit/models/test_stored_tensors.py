"""What a checkpoint's files hold is compared with what its config says, before any weight is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shapcut.models.loading import load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.models.stored_tensors import stored_tensors
from shapcut.support.errors import InputError


@pytest.fixture
def copied(tiny_llama_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_directory, tmp_path / "copy"))


def change_config(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    file = directory / "model.safetensors"
    save_file(load_file(file) | tensors, file, {"format": "pt"})


def inspect(directory: Path) -> object:
    return inspect_source(ModelSource.find(str(directory)))


def test_headers_tell_names_and_number_formats(copied: Path) -> None:
    change_weights(copied, {"extra": torch.zeros(3, dtype=torch.float8_e4m3fn)})
    found = stored_tensors(copied)
    assert found["extra"] == "F8_E4M3"
    assert found["model.norm.weight"] == "F32"


def test_codes_that_nothing_unpacks_are_refused(copied: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    codes = load_file(copied / "model.safetensors")[name].to(torch.float8_e4m3fn)
    change_weights(copied, {name: codes})
    with pytest.raises(InputError, match=rf"1 quantized tensors \({name}: F8_E4M3\).*no quantization_config"):
        inspect(copied)


def test_weights_that_the_config_does_not_ask_for_are_refused_and_not_lost(copied: Path) -> None:
    change_config(copied, num_hidden_layers=4, layer_types=None)
    with pytest.raises(InputError, match=r"hold 18 weights that the LlamaForCausalLM .* model\.layers\.4\."):
        load(ModelSource.find(str(copied), device="cpu"))


def test_buffers_that_old_versions_stored_are_no_weights(copied: Path) -> None:
    change_weights(copied, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load(ModelSource.find(str(copied), device="cpu"))


def test_more_layers_than_tensors_are_not_built(copied: Path) -> None:
    change_config(copied, num_hidden_layers=10**9)
    with pytest.raises(InputError, match=r"promises 1000000000 layers, but the files hold \d+ tensors"):
        inspect(copied)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transformers_weights": "evil.safetensors.index.json"}, "names its weights itself"),
        ({"attn_implementation": "org/kernel"}, r"asks for code from the hub \(attn_implementation"),
        ({"text": {"_attn_implementation": "org/kernel"}}, r"asks for code from the hub"),
    ],
)
def test_a_config_that_leads_elsewhere_is_refused(
    copied: Path, fields: dict[str, object], message: str
) -> None:
    change_config(copied, **fields)
    with pytest.raises(InputError, match=message):
        inspect(copied)


def test_an_index_that_names_a_pickle_is_refused(copied: Path) -> None:
    names = list(load_file(copied / "model.safetensors"))
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"'pytorch_model\.bin'; only \.safetensors files are opened"):
        inspect(copied)


def test_an_adapter_beside_a_gguf_file_is_not_applied_unasked(tiny_gguf_file: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_gguf_file, tmp_path / "model.gguf")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has an adapter_config\.json"):
        ModelSource.find(str(tmp_path / "model.gguf"))
