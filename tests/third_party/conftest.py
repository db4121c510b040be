"""The toy distribution, installed as pip does it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "shapcut-toy-adapter"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed distribution, as pip makes it, without the network."""
    work = tmp_path_factory.mktemp("third-party")
    source, target = work / "source", work / "site"
    (source / "shapcut_toy").mkdir(parents=True)
    for file in (SOURCE / "pyproject.toml", *(SOURCE / "shapcut_toy").glob("*.py")):
        (source / file.relative_to(SOURCE)).write_bytes(file.read_bytes())  # a build writes beside them
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution can be imported and found, for one test."""
    monkeypatch.syspath_prepend(site)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapcut_toy"]:
        del sys.modules[name]
