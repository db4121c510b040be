"""Steps that need whole blocks, and those that also take blocks with fewer experts."""

import pytest
from heard import Heard

from shapcut.host.host import build_host
from shapcut.pipeline.parts import make_parts
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError


def recipe(granularity):
    return make_recipe({"model": "any", "granularity": granularity, "then": ["compensate"]})


def test_compensate_takes_every_granularity():
    for granularity in ("block", "expert", "sublayer", "mixed"):
        assert make_parts(recipe(granularity), build_host()).steps


def test_a_step_for_blocks_takes_no_others(monkeypatch):
    host = build_host()
    monkeypatch.setattr(type(host.postprocessors.create("compensate")), "whole_blocks", True)
    with pytest.raises(InputError, match="needs --granularity block, not expert"):
        make_parts(recipe("expert"), host)


def test_what_an_engine_will_refuse_is_said_before_the_model_is_looked_for():
    heard = Heard()
    given = make_recipe({"model": "no-such-model", "then": ["bitsandbytes:kind=nf4"]})
    with pytest.raises(InputError, match="no-such-model"):
        prepare(given, build_host(), target=False, reporter=heard)
    assert heard.said == ["--then bitsandbytes:kind=nf4: vLLM 0.32 does not load bitsandbytes checkpoints"]
