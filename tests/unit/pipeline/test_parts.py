"""Steps that need whole blocks, and those that also take blocks with fewer experts."""

import pytest

from shapcut.host.host import build_host
from shapcut.pipeline.parts import make_parts
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError


def recipe(granularity):
    return make_recipe({"model": "any", "granularity": granularity, "then": ["compensate"]})


def test_compensate_takes_blocks_and_experts():
    for granularity in ("block", "expert"):
        assert make_parts(recipe(granularity), build_host()).steps


def test_compensate_takes_no_half_layers():
    message = "--then compensate needs --granularity block or expert, not sublayer"
    with pytest.raises(InputError, match=message):
        make_parts(recipe("sublayer"), build_host())


def test_a_step_for_blocks_takes_no_experts(monkeypatch):
    host = build_host()
    monkeypatch.setattr(type(host.postprocessors.create("compensate")), "takes_experts", False)
    with pytest.raises(InputError, match="needs --granularity block, not expert"):
        make_parts(recipe("expert"), host)
