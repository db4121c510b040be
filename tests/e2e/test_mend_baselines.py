"""Published ways to mend a cut as steps of the command line."""

import json
from pathlib import Path

import pytest

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.game.plan import RemovalPlan

STEPS = ("laco", "linear-patch", "prune-and-comp", "replace-me")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_leaves_a_verified_checkpoint_and_a_report_of_each_cut(
    step: str, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    RemovalPlan.removing([1, 2, 4], 6).write(plan)
    command = ["apply", str(tiny_llama_directory), "--plan", str(plan), "--out", str(out), "--then", step]
    assert run(command) == 0
    report = json.loads((tmp_path / "out.run" / "steps" / f"1-{step}" / f"{step}.json").read_text())
    assert [each["removed"] for each in report["cuts"]] == [[1, 2], [4]]
    card = (out / "README.md").read_text().replace("\\", "")
    assert f"- After the cut: {step}" in card


@pytest.mark.parametrize("step", STEPS)
def test_parts_of_blocks_are_refused(
    step: str, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    assert run([*command, "--granularity", "sublayer", "--then", step]) == BAD_INPUT
    message = capsys.readouterr().err
    assert step in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
