"""The benchmark for GPUs runs on a CPU with a small model: every section gives figures, and ways agree."""

import json
from pathlib import Path
from typing import Any

import pytest
from forks import forked, script

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SECTIONS = ("default", "peers", "stratified", "one-row", "block-runs", "compiled", "more-windows", "kernels")
AGREEMENT = 1e-5
"""Nats. In float32 the ways differ by roundings; dropping the wrong block moves losses by hundredths."""


def figures(content: Any, name: str) -> list[float]:
    """Every figure of this name, wherever it is."""
    if not isinstance(content, dict):
        return []
    own = [content[name]] if name in content else []
    return own + [figure for part in content.values() for figure in figures(part, name)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = tmp_path_factory.mktemp("gpu") / "gpu.json"
    done = forked(script(SCRIPT, "--tiny", "--result", result), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-2000:]
    content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return content


def test_every_section_gives_figures(measured: dict[str, Any]) -> None:
    assert measured["left out"] == []
    assert [name for name in SECTIONS if "failed" in measured[name]] == []
    seconds = figures(measured, "seconds a coalition")
    assert len(seconds) == 12
    assert min(seconds) > 0
    assert min(figures(measured, "share of the matrix-product peak")) > 0
    assert {"step", "readout"} == set(next(iter(measured["kernels"].values())))


def test_all_ways_find_the_same_losses(measured: dict[str, Any]) -> None:
    differences = figures(measured, "largest difference from ours")
    assert len(differences) == 7
    assert max(differences) < AGREEMENT
    low, high = measured["default"]["losses from, to"]
    assert high - low > 100 * AGREEMENT


def test_shared_prefixes_save_block_runs(measured: dict[str, Any]) -> None:
    default, peers = measured["default"], measured["peers"]
    whole = peers["zero outputs, all blocks run"]["block runs a coalition"]
    present = peers["run the present blocks, one coalition after another"]["block runs a coalition"]
    assert default["guided draws"]["block runs a coalition"] < present < whole == 8
    counted = measured["block-runs"]["4 windows"]
    for kind, count in counted.items():
        assert count == default[kind]["block runs a coalition"]


def test_sections_that_would_start_too_late_are_named(tmp_path: Path) -> None:
    result = tmp_path / "gpu.json"
    done = forked(script(SCRIPT, "--tiny", "--minutes", 0, "--result", result), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(result.read_text(encoding="utf-8"))
    assert content["left out"] == list(SECTIONS)
    assert {"command", "seed", "device", "torch", "CUDA", "CPU"} <= set(content)
