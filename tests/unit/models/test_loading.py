import json
import logging
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, BertConfig, BertLMHeadModel, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from shapcut.models import location as locations
from shapcut.models.loading import choose_device, load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.support.errors import InputError
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut_adapters.transformers.families import WRAPPERS

IDS = torch.arange(2, 22)[None]


def directory_with_config(tmp_path: Path, text: str) -> str:
    (tmp_path / "config.json").write_text(text)
    return str(tmp_path)


def copy_of(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "copy"))


def refusal(source: object, **options: object) -> str:
    """The message of the refusal, which must be one line."""
    with pytest.raises(InputError) as caught:
        inspect_source(ModelSource.find(str(source), **options))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_directory_is_loaded_ready_to_be_measured(
    tiny_llama_directory: Path, tiny_llama_model: LlamaForCausalLM
) -> None:
    source = ModelSource.find(str(tiny_llama_directory), device="cpu")
    assert source.location.name == "tiny-llama"
    loaded = load(source)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert torch.equal(loaded.model(IDS).logits, tiny_llama_model(IDS).logits)
    assert loaded.tokenizer.decode(loaded.tokenizer("tiny").input_ids) == "tiny"


@pytest.mark.parametrize(("name", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_dtype_is_the_checkpoints_own_or_the_one_asked_for(
    tiny_llama_directory: Path, name: str, dtype: torch.dtype
) -> None:
    loaded = load(ModelSource.find(str(tiny_llama_directory), device="cpu", dtype=name))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_auto_keeps_a_16_bit_checkpoint_in_16_bit(
    tiny_llama_model: LlamaForCausalLM, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    directory = copy_of(tiny_llama_directory, tmp_path)
    with quiet_libraries():
        tiny_llama_model.to(torch.bfloat16).save_pretrained(directory)
    assert load(ModelSource.find(str(directory), device="cpu")).model.lm_head.weight.dtype == torch.bfloat16


def test_an_unknown_dtype_is_refused(tiny_llama_directory: Path) -> None:
    assert "float99" in refusal(tiny_llama_directory, dtype="float99")
    with pytest.raises(InputError, match="--dtype int8"):
        load(ModelSource.find(str(tiny_llama_directory), dtype="int8"))


@pytest.mark.parametrize("name", ["nonsense", "meta:x", "cuda:99"])
def test_an_unusable_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--device"):
        choose_device(name)


def test_loading_is_quiet_and_leaves_the_libraries_as_they_were(
    tiny_llama_directory: Path, tiny_gguf_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    levels = (transformers_logging.INFO, transformers_logging.WARNING)
    for level in levels:
        transformers_logging.set_verbosity(level)
        load(ModelSource.find(str(tiny_llama_directory), device="cpu"))
        load(ModelSource.find(str(tiny_gguf_file), device="cpu"))
        assert transformers_logging.get_verbosity() == level
        assert transformers_logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_bars_that_were_off_stay_off() -> None:
    transformers_logging.disable_progress_bar()
    try:
        with quiet_libraries():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


def test_depth_and_length_are_known_without_weights(tiny_llama_directory: Path) -> None:
    facts = inspect_source(ModelSource.find(str(tiny_llama_directory)))
    assert (facts.depth, facts.max_length) == (6, 256)


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{bad", "damaged"),
        ("[1]", "no JSON object"),
        ('{"hidden_size": 3}', "model_type"),
        ('{"model_type": "nonsense"}', "nonsense"),
        ('{"model_type": "llama", "hidden_size": "abc"}', "hidden_size"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "x.C"}}', "--trust-remote-code"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(directory_with_config(tmp_path, text))


def test_a_config_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "damaged" in refusal(tmp_path)


def test_an_encoder_is_refused(tiny_bert_directory: Path) -> None:
    assert "is not a causal language model" in refusal(tiny_bert_directory)


def test_an_encoder_that_was_made_a_decoder_is_accepted(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        is_decoder=True,
    )
    with quiet_libraries():
        BertLMHeadModel(config).save_pretrained(tmp_path)
    assert inspect_source(ModelSource.find(str(tmp_path))).depth == 2


def test_an_encoder_decoder_is_refused(tiny_t5_directory: Path) -> None:
    assert "encoder-decoder" in refusal(tiny_t5_directory)


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    assert "'vit'" in refusal(directory_with_config(tmp_path, '{"model_type": "vit"}'))


def test_code_of_the_checkpoint_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}})
    )
    (directory / "configuration_mine.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    refusal(directory)
    assert not witness.exists()


@pytest.mark.parametrize("source", ["", "no/such-model", "nosuch", "a/b/c", "/nowhere/model", "weird name!"])
def test_an_unknown_model_is_refused_at_once_and_quietly(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refusal(source).startswith(f"unknown model {source!r}")
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_cannot_be_reached_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    attempts = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        attempts.append(address)
        raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid:8080")
    monkeypatch.setattr(locations, "getproxies", dict)
    monkeypatch.setattr(locations.socket, "create_connection", refuse)
    assert "http://hub.invalid:8080" in refusal("some/model")
    assert attempts == [("hub.invalid", 8080)]
    assert capfd.readouterr() == ("", "")


def test_a_model_that_the_hub_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_hub_is_reachable", lambda: True)
    assert "cannot find the model 'some/model'" in refusal("some/model")


def test_pickled_weights_are_refused_and_not_opened(
    tiny_llama_directory: Path, tiny_llama_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    directory = copy_of(tiny_llama_directory, tmp_path)
    (directory / "model.safetensors").unlink()
    torch.save(tiny_llama_model.state_dict(), directory / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no model\.safetensors.*if you trust them") as caught:
        load(ModelSource.find(str(directory)))
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused(tiny_llama_directory: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_llama_directory, tmp_path)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot load the weights"):
        load(ModelSource.find(str(directory)))


@pytest.mark.skipif(find_spec("timm") is not None, reason="the package is there")
def test_a_tower_whose_package_is_missing_can_be_left_out(tiny_llama_directory: Path, tmp_path: Path) -> None:
    (wrapper,) = [wrapper for wrapper in WRAPPERS if wrapper.model_type == "gemma3n"]
    directory = copy_of(tiny_llama_directory, tmp_path)
    AutoConfig.for_model("gemma3n", **wrapper.config_fields()).save_pretrained(directory)
    with pytest.raises(InputError, match=r"requires the timm library.*--text-only"):
        load(ModelSource.find(str(directory)))


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_llama_directory: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_llama_directory, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    with pytest.raises(InputError, match=r"lacks 9 weights.*model\.layers\.6"):
        load(ModelSource.find(str(directory)))


def test_a_missing_tokenizer_is_refused(tiny_llama_directory: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_llama_directory, tmp_path)
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load(ModelSource.find(str(directory)))


def test_a_gguf_file_gives_the_model_that_was_written_to_it(
    tiny_gguf_file: Path, tiny_llama_model: LlamaForCausalLM
) -> None:
    source = ModelSource.find(str(tiny_gguf_file), device="cpu")
    assert source.location.name == "tiny-llama"
    loaded = load(source)
    assert torch.equal(loaded.model(IDS).logits, tiny_llama_model(IDS).logits)
    assert loaded.tokenizer.decode(loaded.tokenizer("wörld").input_ids) == "wörld"
    assert (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id) == (0, 1)


def test_a_gguf_file_of_the_same_name_elsewhere_is_not_taken(
    tiny_gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / tiny_gguf_file.name).write_bytes(b"GGUF, but not really")
    monkeypatch.chdir(tmp_path)
    assert (
        type(load(ModelSource.find(str(tiny_gguf_file), device="cpu")).model).__name__ == "LlamaForCausalLM"
    )


def test_nothing_is_asked_of_the_hub_for_files_that_are_here(
    tiny_llama_directory: Path, tiny_gguf_file: Path
) -> None:
    for source in (tiny_llama_directory, tiny_gguf_file):
        assert locations.locate(str(source)).arguments()["local_files_only"] is True


def test_a_model_from_a_gguf_file_can_be_saved_and_loaded(tiny_gguf_file: Path, tmp_path: Path) -> None:
    loaded = load(ModelSource.find(str(tiny_gguf_file), device="cpu"))
    with quiet_libraries():
        loaded.model.save_pretrained(tmp_path)
        loaded.tokenizer.save_pretrained(tmp_path)
    again = load(ModelSource.find(str(tmp_path), device="cpu"))
    assert torch.equal(again.model(IDS).logits, loaded.model(IDS).logits)
    assert again.tokenizer("a wörd <s>").input_ids == loaded.tokenizer("a wörd <s>").input_ids
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_a_truncated_gguf_file_is_refused(tiny_gguf_file: Path, tmp_path: Path, share: float) -> None:
    content = tiny_gguf_file.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content[: int(len(content) * share)])
    assert "cannot read the GGUF file" in refusal(damaged)


@pytest.mark.parametrize(
    ("after", "patch", "message"),
    [
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 4, 1 << 40), "bytes at"),
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 8, 1 << 40), "are more than it has"),
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 9, 1 << 40), "9 before"),
        ("tokenizer.ggml.model", struct.pack("<I", 77), "77 before"),
        ("llama.block_count", struct.pack("<II", 4, 1 << 30), "too few for 1073741824 blocks"),
    ],
)
def test_lengths_that_a_gguf_file_cannot_have_are_not_followed(
    tiny_gguf_file: Path, tmp_path: Path, after: str, patch: bytes, message: str
) -> None:
    content = bytearray(tiny_gguf_file.read_bytes())
    at = content.index(after.encode()) + len(after)
    content[at : at + len(patch)] = patch
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    told = refusal(damaged)
    assert "cannot read the GGUF file" in told
    assert message in told


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("hello")
    assert "is not a GGUF file" in refusal(file)


@pytest.mark.parametrize(
    ("message", "line"),
    [("one\ntwo", "one"), ("field:\n  wrong\nmore", "field: wrong"), ("", "ValueError")],
)
def test_an_error_becomes_one_line(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line


def test_an_adapter_alone_is_told_what_to_merge(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/base", "peft_type": "LORA"}'
    )
    message = refusal(tmp_path)
    assert "merge the adapter into the weights of 'org/base'" in message


def test_a_config_that_was_read_whole_is_not_called_incomplete(tmp_path: Path) -> None:
    message = refusal(directory_with_config(tmp_path, '{"model_type": "a-model-of-tomorrow"}'))
    assert "a-model-of-tomorrow" in message
    assert "copy complete" not in message


def test_a_revision_of_a_hub_id_is_read_and_recorded(
    tiny_llama_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {"main": "a" * 40, "v1": "b" * 40}
    repository = tmp_path / "models--org--tiny"
    for name, commit in commits.items():
        shutil.copytree(tiny_llama_directory, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    config = repository / "snapshots" / commits["v1"] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.5}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, commit in commits.items():
        source = ModelSource(locations.locate("org/tiny", revision=name), device="cpu")
        assert source.location.commit == commit
        assert source.location.directory == repository / "snapshots" / commit
        assert (load(source).model.config.rms_norm_eps == 0.5) == (name == "v1")


def test_a_revision_of_a_directory_is_refused(tiny_llama_directory: Path) -> None:
    with pytest.raises(InputError, match="--revision v1 is for hub ids"):
        locations.locate(str(tiny_llama_directory), revision="v1")


def test_a_gguf_file_with_more_blocks_than_its_header_counts_is_refused(
    tiny_gguf_file: Path, tmp_path: Path
) -> None:
    content = tiny_gguf_file.read_bytes()
    key = b"llama.block_count" + struct.pack("<I", 4)
    assert content.count(key + struct.pack("<I", 6)) == 1
    file = tmp_path / "shallow.gguf"
    file.write_bytes(content.replace(key + struct.pack("<I", 6), key + struct.pack("<I", 4)))
    assert "it has the tensor 'blk.4." in refusal(file)
    assert "its header counts 4 blocks" in refusal(file)


def test_loggers_are_quiet_at_once_and_only_inside() -> None:
    library, above = logging.getLogger("transformers.below"), logging.getLogger("transformers")
    level = above.level
    assert library.isEnabledFor(logging.ERROR)
    above.setLevel(logging.INFO)
    try:
        assert library.isEnabledFor(logging.INFO)
        with quiet_libraries():
            assert not library.isEnabledFor(logging.INFO)
        assert library.isEnabledFor(logging.INFO)
    finally:
        above.setLevel(level)
