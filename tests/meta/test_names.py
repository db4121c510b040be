"""The two doors of the package: every name that they list can be imported."""

import pytest

import shapcut
from shapcut import contracts


@pytest.mark.parametrize("door", [shapcut, contracts], ids=["shapcut", "contracts"])
def test_every_listed_name_resolves(door: object) -> None:
    names: list[str] = door.__all__  # type: ignore[attr-defined]
    assert len(names) > 10
    assert [name for name in names if not hasattr(door, name)] == []
