"""A few runs killed at random moments; `benchmarks/kill.py` kills many."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.parametrize("kind", ["prune", "full recipe"])
def test_nothing_is_lost_repeated_or_half_written(
    kind: str, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    missing = [name for name in ("peft", "torchao") if importlib.util.find_spec(name) is None]
    if kind == "full recipe" and missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    result = tmp_path / "kill.json"
    options = ["--kinds", kind, "--runs", "1", "--kills", "2", "--model", str(tiny_llama_directory)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options, "--result", str(result)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(result.read_text())
    assert found["kills"] == 2
    assert found["runs_that_ended_done"] == 1
    assert set(found["faults"].values()) == {0}, found["faults"]
