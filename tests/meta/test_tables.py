"""The tables of README and docs are what the results say."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from shapcut_adapters.transformers.adapter import HFDecoderAdapter

ROOT = Path(__file__).parents[2]


def load_tables() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("tables")


@pytest.mark.parametrize(
    "page",
    load_tables().PAGES,
)
def test_tables_are_generated_from_results(page: str) -> None:
    tables = load_tables()
    text = (ROOT / page).read_text(encoding="utf-8")
    assert ":begin -->" in text
    assert tables.filled(text) == text


def test_the_adapter_says_of_its_families_what_was_found() -> None:
    tables = load_tables()
    assert tables.SUPPORTED.read_text(encoding="utf-8") == tables.supported()
    found = {family.name: family for family in HFDecoderAdapter().families()}
    assert found["qwen3"].verdict == "exact"
    assert found["mixtral"].granularities == ("block", "sublayer", "expert", "mixed")
    assert not found["beam"].supported


@pytest.mark.parametrize("result", ["players_families", "sublayers_families", "mixed_families"])
def test_finer_players_of_every_family_are_exact_or_refused(result: str) -> None:
    file = ROOT / "benchmarks" / "results" / f"{result}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["complete"]
    assert content["counts"].keys() == {"exact", "refused"}
    assert all(row["reason"] for row in content["families"].values() if row["verdict"] == "refused")
    assert content["families"].keys() <= HFDecoderAdapter().examples().keys()


def test_every_claimed_family_was_swept_and_none_is_wrong() -> None:
    content = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text(encoding="utf-8"))
    assert content["complete"]
    verdicts = {name: row["verdict"] for name, row in content["families"].items()}
    unknown = {name for name, verdict in verdicts.items() if verdict == "refused: no adapter knows it"}
    assert verdicts.keys() - unknown == set(HFDecoderAdapter().examples())
    assert not [verdict for verdict in verdicts.values() if not verdict.startswith(("exact", "refused: "))]
