"""Some operations on files that fail; `benchmarks/faults.py` lets every one of them fail."""

import json
from pathlib import Path

import pytest
from forks import forked, script

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"
KINDS = ("open", "os.rename", "os.fsync", "full disk", "memory")


def test_a_failing_operation_loses_nothing_and_the_next_start_goes_on(
    tiny_llama_directory: Path, tmp_path: Path
) -> None:
    result = tmp_path / "faults.json"
    options = ["--every", "11", "--most", "1", "--kinds", *KINDS]
    done = forked(script(SCRIPT, *options, "--model", tiny_llama_directory, "--result", result))
    assert result.exists(), done.stderr[-2000:]
    found = json.loads(result.read_text())
    assert found["complaints"] == []
    assert set(found["faults"]) == set(KINDS)
    assert done.returncode == 0
