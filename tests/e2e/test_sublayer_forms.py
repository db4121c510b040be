"""Attentions and MLPs as players, from the command line to checkpoints of each form."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from shapcut.cli.main import run
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.cache_size import cache_sizes
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

pytestmark = pytest.mark.long

TEXT = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]
PARTS = ["--granularity", "sublayer", "--budget", "30"]
LENGTH = 40


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_plan_and_the_card_say_the_form(tiny_llama_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["prune", str(tiny_llama_directory), "--out", str(out), *PARTS, "--remove", "3", *TEXT]
    assert run(command) == 0
    plan = read(out / "plan.json")
    assert (plan["granularity"], plan["form"]) == ("sublayer", "sibling")  # three parts cannot alternate
    assert AutoConfig.from_pretrained(out).model_type == "qwen2_moe"
    result = read(tmp_path / "out.run" / "result.json")
    assert "is a qwen2_moe one now" in result["checkpoint"]["form"]
    assert "Form: the checkpoint is a qwen2" in (out / "README.md").read_text(encoding="utf-8")


def test_a_limit_of_the_cache_takes_attentions_only(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = HFDecoderAdapter()
    whole = cache_sizes(adapter, adapter.load(tiny_llama_directory), (LENGTH,)).sizes[0]
    model, out = str(tiny_llama_directory), tmp_path / "out"
    limit = ["--cache", f"{whole // 2}@{LENGTH}", "--form", "remote-code"]
    assert run(["prune", model, "--out", str(out), *PARTS, *limit, *TEXT]) == 0
    assert f"cache after {LENGTH} tokens" in capsys.readouterr().out
    plan = read(out / "plan.json")
    assert plan["form"] == "remote-code"
    assert [part % 2 for part in plan["removed"]] == [0, 0, 0]
    assert plan["parts"] == {"attention": [part // 2 for part in plan["removed"]]}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "of the original): attention of " in card
    assert f"| bytes of cache after {LENGTH} tokens | {whole:,} | {whole // 2:,} |" in card
    assert "trust_remote_code=True" in card
    again = ["apply", model, "--plan", str(out / "plan.json"), "--out", str(tmp_path / "again")]
    assert run(again) == 0
    assert (tmp_path / "again" / "modeling_shapcut.py").is_file()


def test_blocks_reach_a_limit_of_the_cache_too(tiny_llama_directory: Path, tmp_path: Path) -> None:
    adapter = HFDecoderAdapter()
    whole = cache_sizes(adapter, adapter.load(tiny_llama_directory), (LENGTH,)).sizes[0]
    out = tmp_path / "out"
    limit = ["--cache", f"{whole * 2 // 3}B@{LENGTH}", "--budget", "20"]
    assert run(["prune", str(tiny_llama_directory), "--out", str(out), *limit, *TEXT]) == 0
    result = read(tmp_path / "out.run" / "result.json")
    assert (result["dense"]["caches"]["sizes"], result["pruned"]["caches"]["sizes"]) == (
        [whole],
        [whole * 2 // 3],
    )


REFUSED = {
    "attentions without code": (
        [*PARTS, "--cache", f"1kB@{LENGTH}"],
        "--cache with --granularity sublayer removes attentions",
    ),
    "a cache that is small enough": (["--cache", f"1GB@{LENGTH}"], "bytes of cache after 40 tokens already"),
    "a cache that no cut reaches": (["--cache", f"1B@{LENGTH}"], "cannot be reached by removing players"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_once(
    case: str, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = REFUSED[case]
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), *TEXT, *options]
    assert run(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_plan_that_needs_code_is_refused_where_code_is_not_wanted(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RemovalPlan.removing([2], 12, granularity="sublayer").write(tmp_path / "plan.json")
    command = ["apply", str(tiny_llama_directory), "--plan", str(tmp_path / "plan.json")]
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--form remote-code" in error
    RemovalPlan.removing([2], 12, granularity="sublayer", form="remote-code").write(tmp_path / "plan.json")
    assert run([*command, "--out", str(tmp_path / "out"), "--form", "plain"]) == 2
    assert "--form remote-code" in capsys.readouterr().err
