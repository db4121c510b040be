"""The command that says which families are supported."""

import json
from typing import Any

import pytest

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run


@pytest.mark.parametrize("name", ["qwen3", "Qwen3", "Qwen3ForCausalLM"])
def test_one_family_is_found_by_type_and_by_class(name: str, capfd: Any) -> None:
    assert run(["families", name, "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)
    assert (found["name"], found["adapter"], found["verdict"]) == ("qwen3", "hf-decoder", "exact")


def test_limits_and_refusals_are_told(capfd: Any) -> None:
    assert run(["families", "bert"]) == 0
    out = capfd.readouterr().out
    assert "1 of 1 families are supported" in out
    assert "is_decoder=True" in out
    assert run(["families", "beam"]) == 0
    assert "0 of 1 families are supported" in capfd.readouterr().out


def test_a_part_of_a_name_lists_all_that_have_it(capfd: Any) -> None:
    assert run(["families", "rwk", "--json"]) == 0
    adapters = {row["adapter"] for row in json.loads(capfd.readouterr().out)}
    assert {"hf-decoder", "rwkv"} <= adapters
    assert run(["families"]) == 0
    assert " of 2" in capfd.readouterr().out


def test_an_unknown_name_is_refused(capfd: Any) -> None:
    assert run(["families", "qwem3"]) == BAD_INPUT
    assert "did you mean 'qwen3'" in capfd.readouterr().err
