"""The step that writes a GGUF file beside the checkpoint."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import contents, stored, write_gguf_file
from hub_stand_in import hub_stand_in

from shapcut.cli.main import run
from shapcut.export.gguf_cut import write_gguf_cut
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.sizes import checkpoint_bytes
from shapcut.models.gguf import load_dequantized
from shapcut.steps.runner import check_order
from shapcut.steps.step import StepContext
from shapcut.support.errors import InputError, ShapcutError, VerificationError
from shapcut.support.plain_json import read_json
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.cast import Cast
from shapcut_plugins.gguf.converter import VARIABLE
from shapcut_plugins.gguf.llama_cpp import perplexity
from shapcut_plugins.gguf.step import TOLERANCES, Gguf, _require_same_perplexity
from shapcut_plugins.gguf.weights import LAYOUTS, ModelWeights

ADAPTER = HFDecoderAdapter()
IDS = torch.arange(2, 42).reshape(2, 20)
PLAN = RemovalPlan.removing((1, 3), 6)


def context(tmp_path: Path, source: Path | None, tokenizer: Any = None) -> StepContext:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return StepContext(ADAPTER, PLAN, IDS, tokenizer, work, 0, source=source)


@pytest.fixture(scope="module")
def changed(tiny_gguf_file: Path) -> Any:
    """The tiny Llama of the GGUF file, cut, with other weights than the file has."""
    model, _ = load_dequantized(tiny_gguf_file)
    model = ADAPTER.remove(model, PLAN.removed, "block")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    return model


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_the_file_has_the_changed_weights_and_the_tokenizer_of_the_source(
    changed: Any, tiny_gguf_file: Path, tmp_path: Path, kind: Any
) -> None:
    step = Gguf(kind, "small.gguf")
    step.check_source(tiny_gguf_file)
    with quiet_libraries():
        written = step.run(changed, context(tmp_path, tiny_gguf_file))
    file = written.directory / "small.gguf"
    assert (written.directory / "model.safetensors").is_file()
    before, after = contents(tiny_gguf_file), contents(file)
    assert after["llama.block_count"] == 4
    assert all(after[key] == value for key, value in before.items() if key.startswith("tokenizer."))
    types = {name: found[0] for name, found in stored(file).items()}
    assert types["blk.3.ffn_up.weight"] == kind.upper()
    assert types["blk.3.attn_norm.weight"] == "F32"
    read, _ = load_dequantized(file)
    expected = ADAPTER.logits(changed, IDS)
    if kind == "f32":
        torch.testing.assert_close(ADAPTER.logits(read, IDS), expected)
    else:
        difference = float((ADAPTER.logits(read, IDS) - expected).std() / expected.std())
        assert 0 < difference < TOLERANCES[kind]


def test_llama_cpp_gives_the_perplexity_of_transformers(
    changed: Any, tiny_gguf_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install 'shapcut[llama-cpp]'")
    place = context(tmp_path, tiny_gguf_file)
    with quiet_libraries():
        Gguf("f16").run(changed, place)
    report = read_json(place.directory / "gguf.json")
    here, there = report["perplexity in transformers"], report["perplexity in llama.cpp"]
    assert there == pytest.approx(here, rel=0.02)
    assert here > 10.0
    with pytest.raises(VerificationError, match=r"has the perplexity 13 in llama\.cpp and 10 in"):
        _require_same_perplexity("model.gguf", 10.0, 13.0)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(VerificationError, match=r"llama.cpp cannot read the written broken.gguf: see "):
        perplexity(tmp_path / "broken.gguf", [[1, 2]], 300, place.directory)


def test_unchanged_weights_are_stored_as_the_file_has_them(tiny_gguf_file: Path, tmp_path: Path) -> None:
    model, _ = load_dequantized(tiny_gguf_file)
    target = tmp_path / "again.gguf"
    write_gguf_cut(tiny_gguf_file, range(6), target, ModelWeights.of(model, "llama", "f32"))
    assert target.read_bytes() == tiny_gguf_file.read_bytes()


def test_the_factor_of_a_norm_of_gemma_is_one_more_than_its_weight() -> None:
    values = np.array([0.5, -1.0], np.float32)
    for name, expected in (("blk.0.attn_norm.weight", [1.5, 0.0]), ("token_embd.weight", [0.5, -1.0])):
        np.testing.assert_array_equal(LAYOUTS["gemma3"](name, values, None), expected)


def test_the_type_of_the_file_is_told(tmp_path: Path, changed: Any, tiny_gguf_file: Path) -> None:
    weights = ModelWeights.of(changed, "llama", "q8_0")
    assert weights.file_type == gguf.LlamaFileType.MOSTLY_Q8_0
    assert weights.kind("blk.0.attn_q.weight", (32, 32)) == gguf.GGMLQuantizationType.Q8_0
    assert weights.kind("rope_freqs.weight", (8,)) is None
    source = write_gguf_file(tmp_path / "whole.gguf", general={"file_type": 2})

    class Other:
        file_type = 7

        def kind(self, name: str, shape: tuple[int, ...]) -> int | None:
            return 1 if name == "token_embd.weight" else None

        def content(self, name: str) -> bytes:
            return np.full((4, 8), 2, np.float16).tobytes()

    write_gguf_cut(source, (0, 2), tmp_path / "cut.gguf", Other())
    assert contents(tmp_path / "cut.gguf")["general.file_type"] == 7
    found = stored(tmp_path / "cut.gguf")
    assert found["token_embd.weight"][:2] == ("F16", (8, 4))
    assert found["blk.1.ffn_up.weight"] == stored(source)["blk.2.ffn_up.weight"]


def test_a_weight_of_another_shape_is_refused(changed: Any) -> None:
    weights = ModelWeights.of(changed, "llama", "f16")
    with pytest.raises(InputError, match=r"token_embd.weight has the shape .* in the model, and \(7, 5\)"):
        weights.kind("token_embd.weight", (5, 7))


@pytest.mark.parametrize("file", ["dir/model.gguf", "model.bin"])
def test_the_file_lies_in_the_checkpoint(file: str) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a \.gguf file"):
        Gguf(file=file)


def test_nothing_follows_it() -> None:
    with pytest.raises(InputError, match="'cast' cannot follow 'gguf', which is the last one"):
        check_order([("gguf", Gguf()), ("cast", Cast())])


def test_what_it_does_not_know_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for source in (None, tmp_path):
        with pytest.raises(InputError, match=r"needs llama.cpp's convert_hf_to_gguf.py: get it with"):
            Gguf().check_source(source)
    with pytest.raises(InputError, match="the converter nowhere is not a file"):
        Gguf(converter="nowhere").check_source(None)
    with pytest.raises(InputError, match="the weights of bloom are not known to correspond"):
        Gguf().check_source(write_gguf_file(tmp_path / "bloom.gguf", "bloom"))
    with pytest.raises(InputError, match=r"'lama' is not among the known ones.*leave out this step"):
        Gguf().check_source(write_gguf_file(tmp_path / "lama.gguf", "lama"))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_command_without_the_converter_stops_at_once(
    tmp_path: Path, tiny_llama_directory: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], dry: list[str],
) -> None:  # fmt: skip
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    out = ["--out", str(tmp_path / "out"), "--remove", "1", "--then", "gguf", *dry]
    assert run(["prune", str(tiny_llama_directory), *out]) == 2
    told = capsys.readouterr().err
    assert "needs llama.cpp's convert_hf_to_gguf.py" in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir())


CONVERTER = """
import pathlib, shutil, sys
import conversion
source, _, target, _, kind = sys.argv[1:]
assert (pathlib.Path(source) / "model.safetensors").is_file(), source
assert (pathlib.Path(source) / "tokenizer_config.json").is_file(), source
assert kind == "f32", kind
shutil.copyfile({file!r}, target)
"""


def test_another_model_is_given_to_the_converter(
    changed: Any, tiny_gguf_file: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready.gguf"
    write_gguf_cut(tiny_gguf_file, PLAN.kept, ready, ModelWeights.of(changed, "llama", "f32"))
    script = tmp_path / "convert_hf_to_gguf.py"
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "__init__.py").touch()
    script.write_text(CONVERTER.format(file=str(ready)))
    monkeypatch.setenv("PATH", str(tmp_path))
    step = Gguf("f32")
    step.check_source(tmp_path)
    with quiet_libraries():
        written = step.run(changed, context(tmp_path, tmp_path, tokenizer))
    assert (written.directory / "model.gguf").read_bytes() == ready.read_bytes()
    with pytest.raises(ShapcutError, match=r"convert_hf_to_gguf.py failed: AssertionError: f16 \(see "):
        Gguf("f16").run(changed, context(tmp_path, tmp_path, tokenizer))
    script.write_text(CONVERTER.format(file=str(tiny_gguf_file)))
    with quiet_libraries(), pytest.raises(VerificationError, match=r"the written model.gguf"):
        step.run(changed, context(tmp_path, tmp_path, tokenizer))


def test_the_whole_command_writes_it_beside_the_checkpoint_and_publishes_both(
    tiny_gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = tmp_path / "out", tmp_path / "plan.json"
    PLAN.write(plan)
    options = ["--then", "gguf:type=f32", "--push-to-hub", "me/small", "--out", str(out)]
    with hub_stand_in(monkeypatch) as hub:
        assert run(["apply", str(tiny_gguf_file), "--plan", str(plan), *options]) == 0
    whole, _ = load_dequantized(tiny_gguf_file)
    read, _ = load_dequantized(out / "model.gguf")
    with ADAPTER.bypass(whole, PLAN.kept):
        torch.testing.assert_close(ADAPTER.logits(read, IDS), ADAPTER.logits(whole, IDS))
    assert checkpoint_bytes(out) == (out / "model.safetensors").stat().st_size
    files = hub.files["me/small"]
    assert {"model.gguf", "model.safetensors", "README.md", "plan.json", "recipe.yaml"} <= set(files)
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert str(tiny_gguf_file.parent).encode() not in content, name
    assert any((tmp_path / "out.run" / "steps").glob("*/gguf.json"))
