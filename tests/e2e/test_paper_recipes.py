"""Every recipe of the paper's experiments is one that can be carried out, of the size that the paper says."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from shapcut.cli.main import run

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "benchmarks" / "paper"
BLOCKS = {
    "llama-2-7b": (32, 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096),
    "llama-2-13b": (40, 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120),
    "llama-3-8b": (32, 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096),
    "vicuna-7b": (32, 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096),
    "mamba-2.8b": (64, 41_244_160),
    "rwkv-4-7b": (32, 5 * 4096**2 + 2 * 4096 * 16384 + 11 * 4096),
}
"""How many blocks, and the parameters of each: matrices of attention and MLP, norms, RWKV's 11 vectors."""
MAMBA = (
    2560 * 10240
    + 5120 * 4
    + 5120
    + 5120 * (160 + 32)
    + 160 * 5120
    + 5120
    + 5120 * 16
    + 5120
    + 5120 * 2560
    + 2560
)
EMBEDDINGS = {"llama-3-8b": 2 * 128_256 * 4096, "llama-2-7b": 2 * 32_000 * 4096}
REMOVED = {32: {"20": 6, "35": 11}, 40: {"20": 8, "35": 14}, 64: {"20": 13, "35": 22}}
MASKS = {"mamba-2.8b": 10_000, "rwkv-4-7b": 12_000}


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that writes the pages; it remembers what it foresaw."""
    spec = importlib.util.spec_from_file_location("recipes", ROOT / "benchmarks" / "recipes.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_there_is_a_recipe_for_every_model_and_share() -> None:
    names = {path.stem for path in PAPER.glob("*.yaml")}
    wanted = {f"{model}-{share}{ours}" for model in BLOCKS for share in (20, 35) for ours in ("", "-ours")}
    assert names == wanted | {"llama-2-7b-published"}


@pytest.mark.parametrize(
    "recipe", sorted([*PAPER.glob("*-[23][05].yaml"), *PAPER.glob("*-ours.yaml")]), ids=lambda path: path.stem
)
def test_dry_run(recipe: Path, script: Any) -> None:
    model = script.model_of(recipe)
    share = recipe.stem.removeprefix(f"{model}-")[:2]
    players, block = BLOCKS[model]
    found = script.foresee(recipe)
    assert (found.players, found.removable, found.from_config) == (players, players, True)
    assert found.players_to_remove == REMOVED[players][share]
    assert sum(cut.most for cut in found.cuts) == REMOVED[players][share]
    assert found.memory.largest_block // (found.memory.weights // found.parameters) == block  # type: ignore[operator]
    if model in EMBEDDINGS:
        assert found.parameters == players * block + EMBEDDINGS[model] + 4096
    if recipe.stem.endswith("ours"):
        assert (found.estimator, found.coalitions, found.tokens_per_coalition) == ("surrogate", 500, 2048)
    else:
        assert found.estimator.partition(":")[0] == "paper"
        assert (found.coalitions, found.tokens_per_coalition) == (MASKS.get(model, 8000), 1280)


def test_a_block_of_mamba_by_hand() -> None:
    assert BLOCKS["mamba-2.8b"][1] == MAMBA


def test_the_published_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = PAPER / "llama-2-7b-published.yaml"
    config = PAPER / "configs" / "llama-2-7b"
    assert run(["prune", str(config), "--recipe", str(recipe), "--dry-run", "--json"]) == 0
    cuts = [cut["fewest"] for cut in json.loads(capsys.readouterr().out)["cuts"]]
    rows = json.loads((PAPER / "published.json").read_text(encoding="utf-8"))["rows"]
    assert cuts == [row["removed"] for row in rows if row["model"] == "llama-2-7b"]


def test_the_pages_are_generated(script: Any) -> None:
    for page in script.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert script.filled(text) == text, "run: make recipes"
