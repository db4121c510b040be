import re
from dataclasses import dataclass
from typing import Literal

import pytest

from shapcut.host.host import KINDS, build_host
from shapcut.host.registry import Registry
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.spec import parse_options
from shapcut.support.suggest import did_you_mean


class Tool:
    def __init__(self, size: int = 3, name: str = "x", mode: Literal["a", "b"] = "a", exact: bool = False):
        if size < 0:
            raise ValueError("size must not be negative")
        self.values = (size, name, mode, exact)


class Plain:
    pass


@dataclass
class Record:
    rate: float


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def registry() -> Registry[object]:
    registry: Registry[object] = Registry("tool")
    registry.add("tool", Tool, "one")
    registry.add("plain", Plain, "one")
    registry.add("record", Record, "two")
    registry.add("double", double, "two")
    return registry


def test_options_become_what_the_factory_declares(registry: Registry[object]) -> None:
    tool = registry.create("tool:size=7, name = y z,mode=b,exact=true")
    assert isinstance(tool, Tool)
    assert tool.values == (7, "y z", "b", True)


def test_a_name_alone_takes_the_defaults(registry: Registry[object]) -> None:
    tool = registry.create("tool")
    assert isinstance(tool, Tool)
    assert tool.values == (3, "x", "a", False)
    assert isinstance(registry.create("plain"), Plain)


def test_dataclasses_and_functions_are_factories_too(registry: Registry[object]) -> None:
    assert registry.create("record:rate=0.5") == Record(0.5)
    assert registry.create("double:number=21") == 42


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tol", r"unknown tool 'tol': did you mean 'tool'\?"),
        ("zzz", "known: double, plain, record, tool"),
        ("tool:siz=3", r"has no option 'siz': did you mean 'size'\?"),
        ("tool:size=many", r"option size=.many.: give a whole number$"),
        ("tool:mode=c", "mode='c'"),
        ("tool:size", "not of the form key=value"),
        ("tool:=3", "not of the form key=value"),
        ("tool:size=-1", "size must not be negative"),
        ("plain:x=1", "has no option 'x'"),
        ("record", "rate"),
    ],
)
def test_a_bad_specification_is_refused_in_one_line(
    registry: Registry[object], spec: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        registry.create(spec)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_is_an_error_naming_both(registry: Registry[object]) -> None:
    with pytest.raises(ShapcutError, match="'tool' is offered by both one and three"):
        registry.add("tool", Plain, "three")


def test_nothing_registered_is_said() -> None:
    assert did_you_mean("x", []) == "known: none"


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_options("a=b=c,,d=", "x") == {"a": "b=c", "d": ""}


def test_every_offer_of_an_installed_plugin_can_be_imported() -> None:
    host = build_host()
    for kind in KINDS:
        for entry in getattr(host, kind):
            assert callable(entry.factory), entry


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Thing", "cannot be imported: ModuleNotFoundError"),
        ("json:Thing", "json has no Thing that can be called"),
    ],
)
def test_a_reference_that_leads_nowhere_names_plugin_distribution_and_reference(
    target: str, reason: str
) -> None:
    registry: Registry[object] = Registry("thing")
    registry.add("one", target, "dist", "plug")
    with pytest.raises(
        ShapcutError, match=re.escape(f"plugin 'plug' of dist offers 'one' as {target}")
    ) as caught:
        registry.create("one")
    assert reason in str(caught.value)


def test_a_factory_that_returns_nothing_is_an_error() -> None:
    registry: Registry[object] = Registry("thing")
    registry.add("one", lambda: None, "dist", "plug")
    with pytest.raises(ShapcutError, match="plugin 'plug' of dist: the factory of thing 'one' returns None"):
        registry.create("one")
