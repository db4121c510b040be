"""Compensation, healing and mended finalists by the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from shapcut.cli.main import run
from shapcut.support.quiet import quiet_libraries

SIZES = ["--samples", "4", "--sequence-length", "32", "--held-out-samples", "4", "--budget", "20"]
ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo" / "models"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["llama", "rwkv4"])
def test_a_zoo_model_is_cut_compensated_and_healed(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = ["--finalist-samples", "4", "--then", "compensate:samples=32", "--then", "heal:steps=2,batch=2"]
    command = ["prune", str(ZOO / name), "--remove", "3", *SIZES, *steps, "--out", str(out)]
    assert run(command) == 0
    plain = read(tmp_path / "out.run" / "plan.json")
    assert len(plain["removed"]) == 3
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_hidden_layers == 9
    assert not [key for key in model.state_dict() if "lora" in key]
    curve = read(tmp_path / "out.run" / "manifest.json")["result"]["curves"]["heal:steps=2,batch=2"]
    assert [point["step"] for point in curve["points"]] == [0, 2]
    assert set(curve["points"][0]["held_back"]) == {"builtin", "general"}
    last = curve["points"][-1]
    row = f"| 2 | {last['loss']:.4f} | {last['held_back']['builtin']:.4f} |"
    assert row in (out / "README.md").read_text(encoding="utf-8")
    report = (tmp_path / "out.run" / "report.html").read_text(encoding="utf-8")
    assert "Text held back: perplexity against the start" in report
    assert f"{last['held_back']['builtin']:.4f}</td>" in report


def test_compensation_lowers_the_perplexity(tmp_path: Path) -> None:
    results = []
    cut = [str(ZOO / "llama"), "--remove", "6", "--estimator", "block-influence", "--selector", "ranking"]
    for name, steps in (("bare", ["--no-mend"]), ("mended", ["--then", "compensate:samples=48,into=both"])):
        out = tmp_path / name
        assert run(["prune", *cut, *SIZES, *steps, "--out", str(out)]) == 0
        results.append(read(tmp_path / f"{name}.run" / "manifest.json")["result"])
    bare, mended = results
    assert bare["plan"]["removed"] == mended["plan"]["removed"]
    lost = bare["pruned"]["perplexity"]["perplexity"]
    assert mended["pruned"]["perplexity"]["perplexity"] < 0.95 * lost


def test_a_cut_is_mended_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = [str(ZOO / "llama"), "--remove", "6", "--estimator", "block-influence", "--selector", "ranking"]
    perplexities = []
    for name, options in (("plain", ["--no-mend"]), ("mended", [])):
        assert run(["prune", *cut, *SIZES, *options, "--out", str(tmp_path / name)]) == 0
        result = read(tmp_path / f"{name}.run" / "manifest.json")["result"]
        perplexities.append(result["pruned"]["perplexity"]["perplexity"])
    assert perplexities[1] < 0.95 * perplexities[0]
    assert "compensated; perplexity on text held back builtin -" in capsys.readouterr().err
    assert result["steps"][0].startswith("compensate (compensated; perplexity on text held back builtin -")
    before = [block for block in range(12) if block + 1 in result["plan"]["removed"]]
    fitted = sorted({block for block in before if block not in result["plan"]["removed"]})
    changed = f"; changed down_proj and o_proj of blocks {', '.join(map(str, fitted))})"
    assert result["steps"][0].endswith(changed)
    assert "After the cut: compensate (compensated;" in (tmp_path / "mended.run" / "report.html").read_text(
        encoding="utf-8"
    )
    assert "After the cut: nothing" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert "After the cut: compensate (compensated; perplexity on" in (
        tmp_path / "mended" / "README.md"
    ).read_text(encoding="utf-8")
    fitted = read(tmp_path / "mended.run" / "steps" / "1-compensate" / "compensation.json")
    assert set(fitted["texts"]) == set(fitted["held_back"][0]) == {"builtin", "general"}


def test_finalists_are_compared_after_they_are_mended(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", str(tiny_llama_directory), "--remove", "2", *SIZES, "--mend-finalists"]
    assert run([*command, "--no-mend", "--out", str(tmp_path / "no")]) == 2
    assert (
        "--mend-finalists needs finalist samples, and --mend or a step that compensates"
        in capsys.readouterr().err
    )
    more = ["--finalist-samples", "2", "--then", "compensate:samples=16"]
    assert run([*command, *more, "--out", str(tmp_path / "out")]) == 0
    measured = read(tmp_path / "out.run" / "manifest.json")["phases"]["select"]["evaluations_measured"]
    assert measured["finals-mended"] >= 2
