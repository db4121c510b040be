"""The plugin host, on distributions that are really laid out on disk."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import Host, build_host, select_adapter
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError, ShapcutError, UnsupportedModelError

Install = Callable[..., None]

GREETER = """
from shapcut.host.hookspecs import hookimpl

class Selector:
    pass

@hookimpl
def shapcut_register_selectors(register):
    register("{name}", Selector)
"""


class StandIn(Adapter):
    """An adapter that matches models of one class and does nothing else."""

    name = "stand-in"
    handles: type[nn.Module] = nn.Linear

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, self.handles)

    def players(self, model: nn.Module, granularity: str = "block") -> tuple[Any, ...]:
        return ()

    def bypass(self, model: nn.Module, present: Any, granularity: str = "block") -> Any:
        return nullcontext()

    def remove(self, model: nn.Module, absent: Any, granularity: str = "block") -> nn.Module:
        return model

    def example(self, seed: int) -> Any:
        return nn.Linear(1, 1), None


def offering(**adapters: type[Adapter]) -> object:
    """A core plugin that offers adapters; underscores in names stand for dashes."""

    class Plugin:
        @hookimpl
        def shapcut_register_adapters(self, register: Any) -> None:
            for name, adapter in adapters.items():
                register(name.replace("_", "-"), adapter)

    return Plugin()


def names(host: Host) -> list[str]:
    return [plugin.name for plugin in host.plugins]


def test_an_installed_plugin_is_listed_with_what_it_offers(install: Install) -> None:
    install("greeter", GREETER.format(name="hello"))
    host = build_host()
    (plugin,) = host.plugins
    assert (plugin.name, plugin.distribution, plugin.version) == ("greeter", "greeter", "1.2")
    assert plugin.hooks == ("shapcut_register_selectors",)
    assert plugin.registered == ("selector hello",)
    assert host.selectors.entry("hello").distribution == "greeter"
    assert host.selectors.create("hello").__module__ == "greeter"


def test_two_hosts_share_nothing(install: Install) -> None:
    first = build_host()
    install("greeter", GREETER.format(name="hello"))
    second = build_host()
    assert not list(first.selectors)
    assert [entry.name for entry in second.selectors] == ["hello"]
    assert first.manager is not second.manager


def test_each_distribution_gets_its_own_entries(install: Install) -> None:
    install("beta", GREETER.format(name="from-beta"))
    install("alpha", GREETER.format(name="from-alpha"))
    host = build_host(extra=[offering(stand_in=StandIn)])
    assert {entry.name: entry.distribution for entry in host.selectors} == {
        "from-alpha": "alpha",
        "from-beta": "beta",
    }
    assert host.adapters.entry("stand-in").distribution == "shapcut"


def test_core_comes_first_then_first_party_then_the_others_by_name(install: Install) -> None:
    install("zeta", GREETER.format(name="of-zeta"))
    install("alpha", GREETER.format(name="of-alpha"))
    install("own", GREETER.format(name="of-shapcut"), distribution="shapcut")
    assert names(build_host(extra=[offering()])) == ["Plugin", "own", "alpha", "zeta"]


BROKEN = {
    "import": (
        "import no_such_module_anywhere\n",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ),
    "crash": ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
    "misspelt": (
        GREETER.format(name="hello").replace("_selectors", "_selektors"),
        "unknown hook 'shapcut_register_selektors': did you mean 'shapcut_register_selectors'?",
    ),
    "unmarked": (
        GREETER.format(name="hello").replace("@hookimpl", ""),
        "shapcut_register_selectors lacks @hookimpl",
    ),
    "argument": (GREETER.format(name="hello").replace("(register)", "(registrar)"), "registrar"),
    "raising": (GREETER.format(name="hello").replace("register(", "undefined("), "NameError"),
    "bad name": (GREETER.format(name="a:b"), "selector 'a:b': a name is made of"),
    "no factory": (
        GREETER.format(name="hello").replace(", Selector", ", 7"),
        "offered as 7, which cannot be called",
    ),
    "twice": (
        GREETER.format(name="hello") + "    register('hello', list)\n",
        "selector 'hello' is offered twice",
    ),
    "taken": (
        GREETER.format(name="fresh") + "    register('common', list)\n",
        "selector 'common' is offered by both first and second",
    ),
}


@pytest.mark.parametrize(("source", "complaint"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_one_line_that_names_it(install: Install, source: str, complaint: str) -> None:
    install("first", GREETER.format(name="common"))
    install("second", source)
    with pytest.raises(ShapcutError) as caught:
        build_host()
    message = str(caught.value)
    assert complaint in message
    assert "second" in message
    assert "--skip-broken-plugins" in message
    assert "\n" not in message


@pytest.mark.parametrize(("source", "complaint"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_can_be_skipped_and_leaves_nothing(
    install: Install, source: str, complaint: str
) -> None:
    install("first", GREETER.format(name="common"))
    install("second", source)
    install("third", GREETER.format(name="last"))
    host = build_host(skip_broken=True)
    assert names(host) == ["first", "third"]
    assert [entry.name for entry in host.selectors] == ["common", "last"]
    (broken,) = host.broken
    assert (broken.name, broken.distribution) == ("second", "second")
    assert complaint in broken.reason
    assert not any("second" in name for name, _ in host.manager.list_name_plugin())
    host.manager.check_pending()


def test_a_broken_core_plugin_is_never_skipped(install: Install) -> None:
    class Misspelt:
        @hookimpl
        def shapcut_plan_redy(self) -> None: ...

    with pytest.raises(ShapcutError, match="did you mean 'shapcut_plan_ready'"):
        build_host(skip_broken=True, extra=[Misspelt()])


def test_an_object_cannot_be_two_plugins(install: Install) -> None:
    plugin = offering()
    with pytest.raises(ShapcutError, match="same object"):
        build_host(extra=[plugin, plugin])


def test_observers_of_installed_plugins_are_called(install: Install) -> None:
    install(
        "vetoer",
        "from shapcut.host.hookspecs import hookimpl\n\n@hookimpl\n"
        "def shapcut_plan_ready(plan):\n    return plan\n",
    )
    assert build_host().manager.hook.shapcut_plan_ready(plan="no") == ["no"]


class ForConvolutions(StandIn):
    name = "for-convolutions"
    handles = nn.Conv1d


class AlsoLinear(StandIn):
    name = "also-linear"


class OfTheFuture(StandIn):
    name = "of-the-future"
    contract_version = 99


@pytest.mark.parametrize("raised", [ValueError("no\nidea"), SystemExit(0)])
def test_an_error_in_a_hook_names_the_hook_and_the_plugin(install: Install, raised: BaseException) -> None:
    class Broken:
        @hookimpl
        def shapcut_run_started(self) -> None:
            raise raised

    host = build_host(extra=[Broken()])
    words = r"^plugin shapcut:Broken: its shapcut_run_started failed: \w+: [^\n]+$"
    with pytest.raises(ShapcutError, match=words):
        host.manager.hook.shapcut_run_started(run=None)


def test_a_refusal_by_a_hook_stays_as_it_is(install: Install) -> None:
    class Refusing:
        @hookimpl
        def shapcut_plan_ready(self) -> str:
            raise InputError("too many")

    with pytest.raises(InputError, match=r"^too many$"):
        build_host(extra=[Refusing()]).manager.hook.shapcut_plan_ready(plan=None)


def test_the_adapter_that_matches_is_selected(install: Install) -> None:
    host = build_host(extra=[offering(stand_in=StandIn, for_convolutions=ForConvolutions)])
    assert select_adapter(host, nn.Conv1d(1, 1, 1)).name == "for-convolutions"
    assert select_adapter(host, nn.Linear(1, 1)).name == "stand-in"


def test_several_matching_adapters_are_listed(install: Install) -> None:
    host = build_host(extra=[offering(stand_in=StandIn, also_linear=AlsoLinear, other=ForConvolutions)])
    with pytest.raises(UnsupportedModelError, match="several adapters match Linear: also-linear, stand-in;"):
        select_adapter(host, nn.Linear(1, 1))


def test_no_matching_adapter_names_the_model_and_who_was_asked(install: Install) -> None:
    host = build_host(extra=[offering(stand_in=StandIn, for_convolutions=ForConvolutions)])
    model = nn.ReLU()
    model.config = SimpleNamespace(model_type="relu")
    message = r"no adapter matches ReLU \(model_type 'relu'\); asked: stand-in, for-convolutions"
    with pytest.raises(UnsupportedModelError, match=message):
        select_adapter(host, model)


def test_without_adapters_the_message_says_so(install: Install) -> None:
    with pytest.raises(UnsupportedModelError, match="ReLU; asked: none, as no adapter is installed"):
        select_adapter(build_host(), nn.ReLU())


def test_a_plugin_decides_before_the_core(install: Install) -> None:
    install(
        "decider",
        "from shapcut.host.hookspecs import hookimpl\n\n@hookimpl\n"
        "def shapcut_select_adapter(model, adapters):\n"
        "    return next(one for one in adapters if one.name == 'also-linear')\n",
    )
    host = build_host(extra=[offering(stand_in=StandIn, also_linear=AlsoLinear)])
    assert select_adapter(host, nn.Linear(1, 1)).name == "also-linear"


def test_an_adapter_for_another_contract_is_refused(install: Install) -> None:
    host = build_host(extra=[offering(stand_in=StandIn, of_the_future=OfTheFuture)])
    with pytest.raises(
        ShapcutError, match=r"'of-the-future' of shapcut was written for version 99 .* not for 1"
    ):
        select_adapter(host, nn.Linear(1, 1))


@pytest.mark.parametrize("text", ["no colon", "module:", ":Name", "module:two words"])
def test_a_reference_of_another_form_is_refused_at_admission(install: Install, text: str) -> None:
    install("greeter", GREETER.format(name="hello").replace("Selector)", repr(text) + ")"))
    with pytest.raises(ShapcutError, match=r"greeter.*is offered as .*, not as 'module:name'"):
        build_host()


def test_a_plugin_that_exits_when_it_is_imported_is_named(install: Install) -> None:
    install("quitter", "import sys\nsys.exit(0)\n")
    with pytest.raises(ShapcutError, match=r"'quitter' of quitter 1\.2 cannot be imported: SystemExit: 0"):
        build_host()
