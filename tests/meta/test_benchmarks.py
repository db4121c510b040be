"""The scripts of benchmarks."""

from importlib.metadata import packages_distributions
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_no_script_hides_an_installed_package():
    """A script's directory comes first where Python looks for modules."""
    assert {path.stem for path in SCRIPTS.glob("*.py")}.isdisjoint(packages_distributions())
