"""What unit tests share."""

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution of one plugin module; only distributions installed this way are found.

    Called with a name and the source text of the module. Module and entry point have that name, and so has
    the distribution unless another one is given.
    """
    site = tmp_path / "site"
    site.mkdir()
    modules = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        found = metadata.distributions(path=[str(site)])
        return [
            point for distribution in found for point in distribution.entry_points if point.group == group
        ]

    def install_one(name: str, source: str, distribution: str | None = None) -> None:
        (site / f"{name}.py").write_text(source, encoding="utf-8")
        information = site / f"{name}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 1.2\n"
        )
        (information / "entry_points.txt").write_text(f"[shapcut]\n{name} = {name}\n")
        modules.append(name)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    yield install_one
    for name in modules:
        sys.modules.pop(name, None)
