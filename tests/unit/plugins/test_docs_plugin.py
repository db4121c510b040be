"""The example of the page on plugins, taken from the page and run through the host."""

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host, build_host
from shapcut.support.errors import InputError
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

PAGE = Path(__file__).parents[3] / "docs" / "writing-a-plugin.md"


def blocks(language: str) -> list[str]:
    """The code blocks of that language on the page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture
def host(install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    plugin, step = blocks("python")
    (tmp_path / "narrow_step.py").write_text(step, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "narrow_step", raising=False)
    install("shapcut_narrow", plugin, distribution="shapcut-narrow")
    return build_host()


def test_the_entry_point_names_the_module() -> None:
    project: dict[str, Any] = tomllib.loads(blocks("toml")[0])["project"]
    assert project["entry-points"]["shapcut"] == {"narrow": "shapcut_narrow"}


def test_the_step_is_offered_with_its_options(host: Host) -> None:
    (plugin,) = host.plugins
    assert plugin.distribution == "shapcut-narrow"
    assert plugin.hooks == ("shapcut_plan_ready", "shapcut_register_postprocessors")
    assert plugin.registered == ("post-pruning step narrow",)
    step = host.postprocessors.create("narrow:dtype=float16")
    context: Any = None
    assert next(step.run(nn.Linear(2, 2), context).parameters()).dtype is torch.float16


def test_what_does_not_fit_is_refused(host: Host) -> None:
    with pytest.raises(InputError, match="dtype='int3'"):
        host.postprocessors.create("narrow:dtype=int3")
    quantized = nn.Module()
    quantized.weight = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="already quantized"):
        host.postprocessors.create("narrow").check(quantized, HFDecoderAdapter())


def test_the_veto_works(host: Host) -> None:
    ask = host.manager.hook.shapcut_plan_ready
    assert ask(plan=RemovalPlan.removing([0, 2], 4)) == ["the first layer must stay"]
    assert ask(plan=RemovalPlan.removing([1, 2], 4)) == []
