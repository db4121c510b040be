"""`.gguf` in, `.gguf` out: what is written, that it behaves as the bypassed original, and what is refused."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_files import contents, stored, write_gguf_file
from heard import Heard
from hub_stand_in import hub_stand_in
from tiny_checkpoints import write_gguf_header, write_tiny_gguf
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from shapcut.cli.main import run
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.models.gguf import load_dequantized
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.pipeline.prune import apply_plan
from shapcut.recipe.recipe import make_recipe
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

OPTIONS = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "0", "--held-out-samples", "4"]
IDS = torch.arange(2, 42).reshape(2, 20)


def bypassed(model: nn.Module, kept: tuple[int, ...]) -> torch.Tensor:
    adapter = HFDecoderAdapter()
    with adapter.bypass(model, kept):
        return adapter.logits(model, IDS)


def applied(source: Path, out: Path, plan: RemovalPlan) -> list[str]:
    """Apply a plan; return what was said."""
    options = {"samples": 3, "sequence_length": 24, "held_out_samples": 4, "finalist_samples": 0}
    reporter = Heard()
    recipe = make_recipe({"model": str(source), "remove": len(plan.removed), **options})
    apply_plan(recipe, plan, out, build_host(), reporter=reporter)
    return reporter.said


@pytest.fixture(scope="module")
def pruned(tiny_gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "small.gguf"
    assert run(["prune", str(tiny_gguf_file), "--out", str(out), "--remove", "2", *OPTIONS]) == 0
    return out


def test_the_result_is_one_file_and_a_run_beside_it(pruned: Path) -> None:
    assert sorted(path.name for path in pruned.parent.iterdir()) == ["small.gguf", "small.gguf.run"]
    directory = pruned.with_name("small.gguf.run")
    names = {path.name for path in directory.iterdir()}
    assert {"README.md", "plan.json", "recipe.yaml", "manifest.json", "result.json", "report.html"} <= names
    result = json.loads((directory / "result.json").read_text())
    assert result["checkpoint"]["directory"] == str(pruned)
    assert result["pruned"]["checkpoint_bytes"] == pruned.stat().st_size
    assert result["dense"]["checkpoint_bytes"] > pruned.stat().st_size


def test_the_card_names_llama_cpp_and_is_published_beside_the_file(
    pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_stand_in(monkeypatch) as hub:
        assert run(["push", str(pruned), "me/small"]) == 0
    files = hub.files["me/small"]
    assert files["small.gguf"] == pruned.read_bytes()
    card = files["README.md"].decode()
    assert "library_name: gguf\n" in card
    assert "```console\n$ llama-cli -m small.gguf\n```" in card
    assert "with 2 of its 6 blocks removed by shapcut" in card
    assert "| perplexity, held-out text |" in card
    assert str(pruned.parent) not in card


def test_apply_publishes_what_it_wrote(
    pruned: Path, tiny_gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = pruned.with_name("small.gguf.run") / "plan.json", tmp_path / "again.gguf"
    command = ["apply", str(tiny_gguf_file), "--plan", str(plan), "--out", str(out)]
    with hub_stand_in(monkeypatch) as hub:
        assert run([*command, "--run", str(tmp_path / "mine"), "--push-to-hub", "me/small"]) == 0
    assert hub.files["me/small"]["again.gguf"] == pruned.read_bytes()


def test_plain_transformers_gives_the_logits_of_the_bypassed_original(
    pruned: Path, tiny_gguf_file: Path
) -> None:
    plan = RemovalPlan.read(pruned.with_name("small.gguf.run") / "plan.json")
    whole, _ = load_dequantized(tiny_gguf_file)
    cut, _ = load_dequantized(pruned)
    assert len(cut.model.layers) == len(plan.kept) == 4
    torch.testing.assert_close(HFDecoderAdapter().logits(cut, IDS), bypassed(whole, plan.kept))


def test_a_gguf_file_alone_becomes_a_checkpoint_of_transformers(
    pruned: Path, tiny_gguf_file: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone" / tiny_gguf_file.name
    alone.parent.mkdir()
    alone.write_bytes(tiny_gguf_file.read_bytes())
    plan = RemovalPlan.read(pruned.with_name("small.gguf.run") / "plan.json")
    applied(alone, tmp_path / "out", plan)
    whole, _ = load_dequantized(tiny_gguf_file)
    with quiet_libraries():
        written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(HFDecoderAdapter().logits(written, IDS), bypassed(whole, plan.kept))


def test_apply_writes_the_same_file(pruned: Path, tiny_gguf_file: Path, tmp_path: Path) -> None:
    plan = pruned.with_name("small.gguf.run") / "plan.json"
    out = tmp_path / "again.GGUF"
    assert run(["apply", str(tiny_gguf_file), "--plan", str(plan), "--out", str(out)]) == 0
    assert out.read_bytes() == pruned.read_bytes()


def test_the_parts_of_a_split_model_are_pruned_like_the_whole(
    pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_tiny_gguf(tmp_path / "tiny.gguf", split=20)
    assert first.name == "tiny-00001-of-00003.gguf"
    out, plan = tmp_path / "small.gguf", pruned.with_name("small.gguf.run") / "plan.json"
    last = first.with_name("tiny-00003-of-00003.gguf")
    assert run(["apply", str(last), "--plan", str(plan), "--out", str(out)]) == 0
    assert out.read_bytes() == pruned.read_bytes()
    result = json.loads((tmp_path / "small.gguf.run" / "result.json").read_text())
    parts = sum(part.stat().st_size for part in tmp_path.glob("tiny-*.gguf"))
    assert result["dense"]["checkpoint_bytes"] == parts
    last.unlink()
    assert run(["prune", str(first), "--out", str(tmp_path / "other.gguf"), "--remove", "2", *OPTIONS]) == 2
    assert "tiny-00003-of-00003.gguf is missing" in capsys.readouterr().err


def test_a_run_killed_after_the_file_appeared_is_finished(
    pruned: Path, tiny_gguf_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, before = pruned.with_name("small.gguf.run"), pruned.stat()
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    (directory / "report.html").unlink()
    command = ["prune", str(tiny_gguf_file), "--out", str(pruned), "--remove", "2", *OPTIONS]
    assert run(command) == 0
    assert "was finished by an earlier start" in capsys.readouterr().err
    assert (directory / "report.html").is_file()
    assert pruned.stat() == before
    assert run(command) == 2
    assert "small.gguf already exists" in capsys.readouterr().err


REFUSED = {
    "a step": ("{gguf} --then compensate", "--then compensate cannot change them"),
    "several targets": ("{gguf} --remove 1,2", "is one file; give one target"),
    "sublayers": ("{gguf} --granularity sublayer", "is cut by whole blocks, not by sublayers"),
    "another format": ("{directory}", "needs a GGUF file as MODEL"),
    "a text": ("{text}", "needs a GGUF file as MODEL"),
    "a demo model": ("demo:smollm2-135m", "needs a GGUF file as MODEL"),
    "an unknown architecture": ("{lama}", "its architecture 'lama' is not among the known ones"),
    "a damaged file": ("{damaged}", "after its end; is the copy complete?"),
    "a file that exists": ("{gguf} --out {text_gguf}", "already exists; choose another one"),
}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_become_a_gguf_file_is_refused_before_any_work(
    tiny_gguf_file: Path, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: str, message: str, dry: list[str],
) -> None:  # fmt: skip
    places = {
        "gguf": tiny_gguf_file,
        "directory": tiny_llama_directory,
        "text": tmp_path / "text.txt",
        "text_gguf": tmp_path / "text.gguf",
        "lama": write_gguf_file(tmp_path / "lama.gguf", "lama"),
        "damaged": tmp_path / "damaged.gguf",
    }
    places["text"].write_text("hello")
    places["text_gguf"].write_text("hello")
    places["damaged"].write_bytes(tiny_gguf_file.read_bytes()[:-100])
    before = sorted(tmp_path.iterdir())
    command = ["prune", "--out", str(tmp_path / "out.gguf"), "--remove", "2", *OPTIONS, *dry]
    assert run([*command, *arguments.format(**places).split()]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert len(told.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_plan_that_would_be_misread_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", full_attention_interval=2)
    plan = tmp_path / "plan.json"
    RemovalPlan.removing((1,), 6).write(plan)
    command = ["apply", str(source), "--plan", str(plan), "--out", str(tmp_path / "out.gguf")]
    assert run(command) == 2
    assert "llama.full_attention_interval is 2, and the cut breaks that period" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf.run").exists()


def gemma(path: Path, windows: list[bool] | None = None) -> Path:
    """Six random layers of Gemma 3, of which the last attends to everything and the others to 8 tokens."""
    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=256, query_pre_attn_scalar=256, max_position_embeddings=256,
        sliding_window=8, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config)
    writer = gguf.GGUFWriter(path, "gemma3")
    write_gguf_header(writer, config, rope_base=1e6)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    if windows is not None:
        writer.add_array("gemma3.attention.sliding_window_pattern", windows)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        stored_name = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(stored_name, weight.numpy() + np.float32("norm.weight" in name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sliding_windows_of_a_cut_gemma_are_read_as_written(tmp_path: Path) -> None:
    source, out, plan = gemma(tmp_path / "gemma.gguf"), tmp_path / "cut.gguf", RemovalPlan.removing((1, 3), 6)
    with quiet_libraries():
        said = applied(source, out, plan)
    assert any("gemma3.attention.sliding_window_pattern" in line for line in said)
    assert contents(out)["gemma3.attention.sliding_window_pattern"] == [True, True, True, False]
    card = out.with_name(f"{out.name}.run").joinpath("README.md").read_text(encoding="utf-8")
    assert "- Form: the cut breaks the period of sliding windows" in card
    expected = bypassed(load(ModelSource.find(str(source), device="cpu")).model, plan.kept)
    adapter, cut = HFDecoderAdapter(), load(ModelSource.find(str(out), device="cpu")).model
    torch.testing.assert_close(adapter.logits(cut, IDS), expected)
    plain, _ = load_dequantized(out)
    assert float((adapter.logits(plain, IDS) - expected).abs().max()) > 0.01
    again = tmp_path / "again.gguf"
    with quiet_libraries():
        applied(out, again, RemovalPlan.removing((0,), 4))
    assert contents(again)["gemma3.attention.sliding_window_pattern"] == [True, True, False]
    assert stored(again)["blk.2.attn_q.weight"] == stored(source)["blk.5.attn_q.weight"]


def test_windows_that_do_not_fit_the_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = gemma(tmp_path / "gemma.gguf", [True, False, True])
    assert run(["inspect", str(source)]) == 2
    told = capsys.readouterr().err
    assert "sliding_window_pattern has 3 elements, which do not fit the model's 6 layers" in told


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_llama_cpp_agrees_about_the_cut_as_well_as_about_the_whole(
    family: str, tiny_gguf_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install 'shapcut[llama-cpp]'")
    from llama_server import LlamaServer  # noqa: PLC0415 - imports it

    source = tiny_gguf_file if family == "llama" else gemma(tmp_path / "gemma.gguf")
    out, plan = tmp_path / "cut.gguf", RemovalPlan.removing((1, 3), 6)
    with quiet_libraries():
        applied(source, out, plan)
    model = load(ModelSource.find(str(source), device="cpu")).model
    differences = []
    for file, kept in ((source, tuple(range(6))), (out, plan.kept)):
        expected = bypassed(model, kept)[0, -1].log_softmax(-1)
        found = LlamaServer(file, len(expected)).log_probabilities(IDS[0].tolist())
        differences.append(max(abs(found[token] - float(expected[token])) for token in found))
    assert differences[0] < 0.05
    assert differences[1] < 0.05
