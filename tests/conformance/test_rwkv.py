"""The adapters for RWKV pass the whole kit, and agree with the packages that the models are of."""

import copy
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.support.quiet import quiet_libraries
from shapcut.testing import CHECKS, cases, run_check
from shapcut.testing.case import run_stack
from shapcut_adapters.rwkv import functions as rwkv_functions
from shapcut_adapters.rwkv.adapter import RwkvPackageAdapter
from shapcut_adapters.rwkv.examples import VERSIONS, tiny_rwkv
from shapcut_adapters.rwkv.format import RwkvPth, read_model
from shapcut_adapters.rwkv.functions import functions
from shapcut_adapters.rwkv.model import RwkvModel
from shapcut_adapters.rwkv.weights import read_weights, write_weights
from shapcut_adapters.rwkv7_hf.adapter import Rwkv7HfAdapter
from shapcut_adapters.rwkv7_hf.format import Rwkv7Hf
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

CASES = {case.name: case for adapter in (RwkvPackageAdapter(), Rwkv7HfAdapter()) for case in cases(adapter)}
CPU = torch.device("cpu")


@pytest.fixture
def rwkv() -> RwkvPackageAdapter:
    return RwkvPackageAdapter()


@pytest.fixture
def rwkv7_hf() -> Rwkv7HfAdapter:
    return Rwkv7HfAdapter()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("example", [*(f"rwkv-{version}" for version in VERSIONS), "rwkv7-hf"])
def test_conformance(example, check):
    result = run_check(CASES[example], check)
    assert result.passed, result.detail


def by_the_package(directory: Path, model: RwkvModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits by the package's own class, which reads the file itself."""
    path = str(directory / "model")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is deprecated", category=DeprecationWarning)
        if model.version == "7":
            loaded = functions("x070").RWKV_x070(path, "cpu fp32")
        else:
            loaded = functions("classic").RWKV(path, "cpu fp32", verbose=False)
    return torch.stack([loaded.forward(row.tolist(), None, full_output=True)[0] for row in input_ids])


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_what_the_package_computes(rwkv, tmp_path, monkeypatch, version):
    monkeypatch.setenv("RWKV_JIT_ON", "0")  # the classes read these when they run
    monkeypatch.setenv("RWKV_CUDA_ON", "0")
    model, input_ids = tiny_rwkv(version, 1)
    with rwkv.bypass(model, {1, 3}):
        expected = rwkv.logits(model, input_ids)
    rwkv.save(rwkv.remove(model, {0, 2, 4}), tmp_path)
    torch.testing.assert_close(by_the_package(tmp_path, model, input_ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", ["6", "7"])
def test_the_code_of_the_model_card_runs_without_shapcut(rwkv, tmp_path, version):
    model, input_ids = tiny_rwkv(version, 0)
    rwkv.save(rwkv.remove(model, {0}), tmp_path)
    tokens = input_ids[0].tolist()
    code = rwkv.usage(model).replace("path/of/this/directory", str(tmp_path))
    code += f"print([round(float(x), 3) for x in model.forward({tokens}, None)[0][:4]])\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["RWKV_JIT_ON"] = "0"  # compiling the layers of v4 to v6 takes long
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    expected = [round(float(x), 3) for x in rwkv.logits(model, input_ids)[0, -1, :4]]
    found = [float(x) for x in result.stdout.splitlines()[-1].strip("[]").split(",")]
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_directory_of_rwkv7_hf_is_read_by_the_package_and_by_plain_transformers(rwkv7_hf, tmp_path):
    model, input_ids = rwkv7_hf.example(0)
    source, out = tmp_path / "source", tmp_path / "out"
    with quiet_libraries():
        rwkv7_hf.save(rwkv7_hf.remove(model, {0, 2}), source)
        shutil.copy(rwkv_functions.package_directory() / "rwkv_vocab_v20230424.txt", source)
        loaded, tokenizer = Rwkv7Hf().load(source, device=CPU, dtype=None)
        rwkv7_hf.save(loaded, out)
        tokenizer.save_pretrained(out)
    code = rwkv7_hf.usage(model).replace("path/of/this/directory", str(out))
    code += f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
plain = AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=True)
plain_tokenizer = AutoTokenizer.from_pretrained({str(out)!r}, trust_remote_code=True)
ids = torch.tensor({input_ids.tolist()})
torch.save([one.eval()(ids).logits.detach() for one in (model, plain)], {str(tmp_path / "logits")!r})
assert tokenizer("Hello world").input_ids == plain_tokenizer("Hello world").input_ids == [33155, 40213]
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    for logits in torch.load(tmp_path / "logits", weights_only=True):
        torch.testing.assert_close(logits, rwkv7_hf.logits(model, input_ids))


def test_the_package_is_read_without_a_trace_in_the_process():
    script = """
import os, sys, torch
before = dict(os.environ), torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
from shapcut_adapters.rwkv.functions import functions
assert functions("classic").RWKV.__name__ == "RWKV"
assert functions("x070").RWKV_x070_TMix_seq
assert before == (dict(os.environ), torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32)
assert "rwkv" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_first_block_of_v7_gives_the_values_that_others_mix_in(rwkv):
    model, input_ids = tiny_rwkv("7", 0)
    with rwkv.bypass(model, {1, 2, 3, 4}):
        expected = rwkv.logits(model, input_ids)
    for name in ("v0", "v1", "v2"):
        model.blocks[1].att.get_parameter(name).fill_(torch.nan)
    with rwkv.bypass(model, {1, 2, 3, 4}):
        assert torch.equal(rwkv.logits(model, input_ids), expected)
    assert rwkv.logits(model, input_ids).isnan().any()


@pytest.mark.parametrize("example", ["rwkv-7", "rwkv7-hf"])
def test_the_stack_gives_what_bypassing_gives_whatever_comes_first(example):
    case = CASES[example]
    model = case.fresh()
    stack = case.adapter.stack(model)
    for absent in ({0, 1}, {0, 1, 2, 3}, {1, 2, 3}, {0, 1, 2, 3, 4}):
        expected = case.bypassed(model, absent)
        found = run_stack(stack, 5, case.input_ids, absent)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_chain_of_removals_of_the_first_block(rwkv7_hf, tmp_path):
    model, input_ids = rwkv7_hf.example(0)
    with rwkv7_hf.bypass(model, {3, 4}):
        expected = rwkv7_hf.logits(model, input_ids)
    for _ in range(3):
        rwkv7_hf.remove(model, {0})
    assert model.config.value_dim == [32, 32]
    torch.testing.assert_close(rwkv7_hf.logits(model, input_ids), expected)
    rwkv7_hf.save(model, tmp_path)
    torch.testing.assert_close(rwkv7_hf.logits(rwkv7_hf.load(tmp_path), input_ids), expected)


def test_weights_in_fp16_are_computed_with_in_fp32(rwkv):
    model, input_ids = tiny_rwkv("4", 0)
    model.half()
    expected = rwkv.logits(copy.deepcopy(model).float(), input_ids)
    assert torch.equal(rwkv.logits(model, input_ids), expected)
    assert model.raw_weights()["emb.weight"].dtype == torch.float16


def test_state_that_was_learned_begins_each_sequence(rwkv, tmp_path, monkeypatch):
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    monkeypatch.setenv("RWKV_CUDA_ON", "0")
    plain, input_ids = tiny_rwkv("6", 0)
    generator = torch.Generator().manual_seed(0)
    weights = {name: tensor.data for name, tensor in plain.raw_weights().items()}
    for index in range(5):
        weights[f"blocks.{index}.att.time_state"] = torch.randn(2, 16, 16, generator=generator)
    model = RwkvModel(weights)
    rwkv.save(model, tmp_path)
    logits = rwkv.logits(model, input_ids)
    assert not torch.allclose(logits, rwkv.logits(plain, input_ids))
    torch.testing.assert_close(by_the_package(tmp_path, model, input_ids), logits, rtol=1e-5, atol=1e-5)


def test_an_older_name_holds_the_logarithm_of_the_bonus(rwkv, tmp_path, monkeypatch):
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    monkeypatch.setenv("RWKV_CUDA_ON", "0")
    weights = weights_of("5.2")
    for index in range(5):
        weights[f"blocks.{index}.att.time_first"] = weights.pop(f"blocks.{index}.att.time_faaaa")
    model = RwkvModel(weights)
    input_ids = tiny_rwkv("5.2", 0)[1]
    rwkv.save(model, tmp_path)
    logits = rwkv.logits(model, input_ids)
    torch.testing.assert_close(by_the_package(tmp_path, model, input_ids), logits, rtol=1e-5, atol=1e-5)


def weights_of(version: str) -> dict[str, torch.Tensor]:
    model, _ = tiny_rwkv(version, 0)  # type: ignore[arg-type]
    return {name: tensor.data for name, tensor in model.raw_weights().items()}


def test_names_and_number_formats_survive_reading_and_writing(tmp_path):
    weights = {name: tensor.bfloat16() for name, tensor in weights_of("7").items()}
    weights["blocks.1.att.w0"] = weights["blocks.1.att.w0"].float()
    write_weights(weights, tmp_path / "model.pth")
    write_weights(read_model(tmp_path / "model.pth").raw_weights(), tmp_path / "again.pth")
    again = read_weights(tmp_path / "again.pth")
    assert {name: tensor.dtype for name, tensor in again.items()} == {
        name: tensor.dtype for name, tensor in weights.items()
    }
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert not any(isinstance(tensor, torch.nn.Parameter) for tensor in again.values())


def test_a_part_of_a_larger_storage_is_written_alone(tmp_path):
    whole = torch.zeros(1_000_000)
    write_weights({"part": whole[:10]}, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 10_000


class Ran:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"emb.weight": Ran(tmp_path / "witness")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        RwkvPth().check(tmp_path / "evil.pth")
    assert not (tmp_path / "witness").exists()


def without(version: str, name: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in weights_of(version).items() if key != name}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"layer.weight": torch.zeros(2)}, "no weight 'emb.weight'"),
        (without("7", "blocks.2.att.v1"), "block 2 of .*RWKV 7.* no weight 'att.v1'"),
        (without("6", "blocks.0.ln0.bias"), "block 0 of .*RWKV 6.* no weight 'ln0.bias'"),
        (without("5.2", "blocks.3.att.time_faaaa"), "block 3 of .*RWKV 5.2.* no weight 'att.time_faaaa'"),
        (without("4", "head.weight"), "RWKV 4.* no weight 'head.weight'"),
        (weights_of("7") | {"blocks.1.ffn.s_emb.weight": torch.zeros(2)}, "known here: 'ffn.s_emb.weight'"),
        (
            weights_of("5.2") | {f"blocks.{i}.att.time_decay": torch.zeros(2) for i in range(5)},
            "RWKV 5.0 or 5.1",
        ),
        (weights_of("4") | {"_strategy": "cpu fp32"}, "prune the original .pth"),
        ([torch.zeros(2)], "no dictionary of tensors"),
    ],
)
def test_weights_that_are_not_those_of_a_known_version_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match=words):
        RwkvPth().check(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        RwkvPth().check(tmp_path)


def test_paths_are_claimed_by_their_names(tmp_path, tokenizer):
    file = tmp_path / "model.pth"
    file.touch()
    formats = (RwkvPth(), Rwkv7Hf())
    assert [one.claims(file) for one in formats] == [True, False]
    assert [one.claims(tmp_path) for one in formats] == [True, False]
    (tmp_path / "other.pth").touch()
    assert [one.claims(tmp_path) for one in formats] == [True, False]
    with pytest.raises(InputError, match=r"model\.pth.*other\.pth|2 \.pth"):
        formats[0].check(tmp_path)
    (tmp_path / "other.pth").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "rwkv7"}')
    assert [one.claims(tmp_path) for one in formats] == [False, True]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert [one.claims(tmp_path) for one in formats] == [False, False]
    (tmp_path / "config.json").write_text("[damaged")
    assert [one.claims(tmp_path) for one in formats] == [False, False]


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rwkv_functions.importlib.util, "find_spec", lambda _name: None)
    (tmp_path / "model.pth").touch()
    with pytest.raises(InputError, match=r"pip install 'shapcut\[rwkv\]'"):
        RwkvPth().check(tmp_path)
    with pytest.raises(InputError, match=r"pip install 'shapcut\[rwkv7-hf\]'"):
        Rwkv7Hf().check(tmp_path)


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    write_weights(weights_of("4"), tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"no tokenizer.json .* 96 rows"):
        RwkvPth().check(tmp_path)


def test_world_models_use_the_vocabulary_of_the_package(tmp_path):
    weights = weights_of("4") | {name: torch.zeros(65536, 32) for name in ("emb.weight", "head.weight")}
    write_weights(weights, tmp_path / "model.pth")
    RwkvPth().check(tmp_path)
    assert RwkvPth().depth(tmp_path) == 5
    model, tokenizer = RwkvPth().load(tmp_path, device=CPU, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert tokenizer("Hello world", add_special_tokens=False)["input_ids"] == [33155, 40213]
    tokenizer.save_pretrained(tmp_path / "..")
    assert (tmp_path.parent / "rwkv_vocab_v20230424.txt").stat().st_size > 1_000_000


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(rwkv7_hf, tmp_path):
    model, _ = rwkv7_hf.example(0)
    model.config.num_hidden_layers = 4
    model.config.value_dim = [32] * 4
    rwkv7_hf.save(model, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.4"):
        rwkv7_hf.load(tmp_path)


def test_models_of_other_kinds_do_not_match(rwkv, rwkv7_hf):
    first, _ = tiny_rwkv("4", 0)
    second, _ = rwkv7_hf.example(0)
    llama, _ = HFDecoderAdapter().example(0)
    for adapter in (rwkv, rwkv7_hf, HFDecoderAdapter()):
        assert sum(adapter.matches(model) for model in (first, second, llama)) == 1
    second.config.num_hidden_layers = 6
    assert not rwkv7_hf.matches(second)
    for adapter, model in ((rwkv, llama), (rwkv7_hf, llama)):
        with pytest.raises(UnsupportedModelError):
            adapter.players(model)
    for adapter, model in ((rwkv, first), (rwkv7_hf, second)):
        with pytest.raises(UnsupportedModelError, match="sublayer"):
            adapter.players(model, "sublayer")
