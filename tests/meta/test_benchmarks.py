"""The scripts of benchmarks."""

from importlib.metadata import packages_distributions
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_no_script_hides_an_installed_package():
    """A script's directory comes first where Python looks for modules."""
    scripts = {path.stem for place in (SCRIPTS, SCRIPTS / "serving") for path in place.glob("*.py")}
    assert scripts.isdisjoint(packages_distributions())
