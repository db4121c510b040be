"""The scripts of benchmarks."""

from importlib.metadata import packages_distributions
from pathlib import Path

import load_gguf
from tiny_checkpoints import write_tiny_gguf

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_no_script_hides_an_installed_package():
    """A script's directory comes first where Python looks for modules."""
    scripts = {path.stem for place in (SCRIPTS, SCRIPTS / "serving") for path in place.glob("*.py")}
    assert scripts.isdisjoint(packages_distributions())


def test_loading_without_and_with_the_cache_of_parses_differs_in_what_is_parsed(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    alone, once = (load_gguf.one(str(file), way) for way in load_gguf.WAYS)
    assert alone["parses"] > 1
    assert once["parses"] == 1
    assert alone["content"] == once["content"]
