"""The kit's own test: an adapter that breaks one promise fails exactly the checks that name it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shapcut.support.errors import InputError
from shapcut.testing import CHECKS, ConformanceError, assert_adapter, check_adapter


def _load_broken_adapters():
    path = Path(__file__).with_name("broken_adapters.py")
    specification = importlib.util.spec_from_file_location("broken_adapters", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


broken = _load_broken_adapters()

# The bypass is the reference: where it is wrong, what is compared with it fails too.
EXPECTED = {
    broken.MatchesEverything: {"example-is-usable"},
    broken.NumbersPlayersFromOne: {
        "forms-are-as-refused",
        "example-is-usable",
        "absent-is-ignored",
        "each-absence-matters",
        "first-forward-inside-bypass",
        "stack-equals-bypass",
        "projections-are-added",
        "remove-equals-bypass",
        "reload-equals-removed",
        "cached-decoding",
        "removal-composes",
        "parameter-count",
        "reindexed-players",
        "config-follows-depth",
        "refusals-have-reasons",
        "dtype-and-device-kept",
    },
    broken.ForgetsAProjection: {"projections-are-added"},
    broken.DisturbsPresentBlocks: {"identity-when-all-present"},
    broken.NeverRestores: {"bypass-restores", "first-forward-inside-bypass", "reindexed-players"},
    broken.RestoresUnlessRaised: {"bypass-restores"},
    broken.UndoesOuterContexts: {"bypass-restores"},
    broken.LeavesAHook: {"bypass-restores"},
    broken.OverwritesWeights: {"bypass-copies-no-weights", "absent-is-ignored"},
    broken.MultipliesByZero: {"absent-is-ignored"},
    broken.IgnoresAbsent: {
        "each-absence-matters",
        "absent-is-ignored",
        "bypass-restores",
        "first-forward-inside-bypass",
        "remove-equals-bypass",
        "cached-decoding",
        "reindexed-players",
    },
    broken.ZeroesTheState: {"remove-equals-bypass", "cached-decoding"},
    broken.ScalesAbsentBlocks: {"remove-equals-bypass", "cached-decoding", "reindexed-players"},
    broken.BypassesTheNextBlock: {
        "absent-is-ignored",
        "remove-equals-bypass",
        "cached-decoding",
        "reindexed-players",
    },
    broken.NeedsAnEarlierForwardPass: {"first-forward-inside-bypass", "reindexed-players"},
    broken.WithStackOfTheNextLayer: {"stack-equals-bypass"},
    broken.WithStackOfOneLength: {"stack-equals-bypass"},
    broken.WithStackOverwritingItsInput: {"stack-leaves-states"},
    broken.WithScaledReadout: {"stack-equals-bypass", "unembedding-equals-readout"},
    broken.WithoutLogitScaling: {"unembedding-equals-readout"},
    broken.WithStackInFloat32: {"dtype-and-device-kept"},
    broken.RemovesTheNextBlock: {"remove-equals-bypass", "cached-decoding", "reindexed-players"},
    broken.KeepsTheStartOfConfigLists: {"remove-equals-bypass", "cached-decoding", "reindexed-players"},
    broken.KeepsAFieldOfTheOldDepth: {"config-follows-depth"},
    broken.KeepsOldLayerIndices: {"cached-decoding"},
    broken.SavesInBfloat16: {"reload-equals-removed"},
    broken.SavesTheOldDepth: {"reload-equals-removed", "config-follows-depth", "dtype-and-device-kept"},
    broken.RemembersOriginalIndices: {"removal-composes"},
    broken.CountsParametersTwice: {"parameter-count"},
    broken.CountsFromTheEnd: {"bad-indices-raise-first"},
    broken.TouchesBeforeItRaises: {"bad-indices-raise-first"},
    broken.RemovesAtMostTwo: {
        "remove-equals-bypass",
        "cached-decoding",
        "removal-composes",
        "parameter-count",
        "reindexed-players",
    },
    broken.RemovesWhatItRefuses: {"refusals-have-reasons", "forms-are-as-refused"},
    broken.TouchesBeforeItRefuses: {"refusals-have-reasons"},
    broken.GivesNoReason: {"refusals-have-reasons"},
    broken.ListsAnUnremovablePlayerThatItRemoves: {"refusals-have-reasons"},
    broken.RefusesEverything: {
        "remove-equals-bypass",
        "reload-equals-removed",
        "cached-decoding",
        "removal-composes",
        "parameter-count",
        "reindexed-players",
        "config-follows-depth",
        "dtype-and-device-kept",
    },
    broken.DeclaresACacheFaultInVain: {"cached-decoding"},
    broken.HasAnUndeclaredCacheFault: {"cached-decoding"},
    broken.KeepsOldIndicesWhereTheCacheIsAtFault: {"cached-decoding"},
    broken.IgnoresAbsentHalves: {
        "each-absence-matters",
        "parts-are-their-block",
        "absent-is-ignored",
        "bypass-restores",
        "first-forward-inside-bypass",
    },
    broken.RemovesIntoFloat32: {"dtype-and-device-kept"},
    broken.SilencesExperts: {
        "absent-is-ignored",
        "stack-equals-bypass",
        "remove-equals-bypass",
        "cached-decoding",
        "reindexed-players",
    },
    broken.WithStackOfAllExperts: {"stack-equals-bypass"},
    broken.WithExpertsOverwritingTheState: {"stack-leaves-states"},
    broken.KeepsTheFirstExperts: {"remove-equals-bypass", "cached-decoding", "reindexed-players"},
    broken.KeepsTheOldCountOfExperts: {
        "reload-equals-removed",
        "removal-composes",
        "reindexed-players",
        "dtype-and-device-kept",
    },
    broken.CountsNoRouterRows: {"parameter-count"},
    broken.CountsExpertsWithTheirPart: {"parameter-count"},
    broken.CutsNoExpertsBesideParts: {
        "remove-equals-bypass",
        "cached-decoding",
        "removal-composes",
        "parameter-count",
    },
    broken.LeavesTheBias: {
        "absent-is-ignored",
        "parts-are-their-block",
        "stack-equals-bypass",
        "remove-equals-bypass",
        "cached-decoding",
        "reindexed-players",
    },
    broken.SwapsHalves: {
        "absent-is-ignored",
        "remove-equals-bypass",
        "cached-decoding",
        "reindexed-players",
    },
    broken.AddsAbsentMlps: {"stack-equals-bypass"},
    broken.CountsTheBlockForEachHalf: {"parts-are-their-block", "parameter-count"},
    broken.RemovesTheWholeBlock: {
        "remove-equals-bypass",
        "cached-decoding",
        "parameter-count",
        "forms-are-as-refused",
    },
    broken.LetsLayerTypesFollowTheMlps: {"remove-equals-bypass", "cached-decoding", "reindexed-players"},
    broken.LeavesARemnant: {"remove-equals-bypass", "cached-decoding"},
    broken.CountsNoRemnants: {"parameter-count"},
    broken.OffersAFormThatItRefuses: {"forms-are-as-refused"},
    broken.NumbersAttentionsByBlock: {"cached-decoding"},
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("adapter", EXPECTED, ids=lambda adapter: adapter.__name__)
def test_broken_adapter_fails_exactly_the_checks_that_name_its_fault(adapter):
    results = check_adapter(adapter())
    assert {result.check for result in results if not result.passed} == EXPECTED[adapter]


def test_every_check_is_failed_by_some_adapter():
    assert set().union(*EXPECTED.values()) == set(CHECKS)


def test_the_adapter_that_they_are_made_from_is_sound():
    results = check_adapter(broken.Sound())
    assert [result.check for result in results] == list(CHECKS)
    assert all(result.passed and result.detail for result in results)
    assert_adapter(broken.Sound())


def test_what_an_adapter_says_that_it_cannot_do_is_not_held_against_it():
    results = {result.check: result for result in check_adapter(broken.OnlyBypasses())}
    assert all(result.passed for result in results.values())
    assert results["remove-equals-bypass"].detail.endswith("this architecture has a fixed depth")
    assert "comparisons" in results["stack-equals-bypass"].detail


def test_a_declared_fault_of_the_cache_is_reported():
    results = {result.check: result for result in check_adapter(broken.DeclaresItsCacheFault())}
    assert all(result.passed for result in results.values())
    assert results["cached-decoding"].detail.endswith("the last token is one too high")


def test_sublayers_are_checked_where_they_are_players():
    results = check_adapter(broken.Sublayers())
    assert {result.example for result in results} == {"tiny", "tiny by sublayer"}
    assert [result for result in results if not result.passed] == []


def test_the_halves_of_a_decoder_are_checked():
    results = check_adapter(broken.SublayerPlayers())
    assert {result.example for result in results} == {
        "tiny",
        "tiny by sublayer",
        "tiny by sublayer with code",
    }
    assert [result for result in results if not result.passed] == []


def test_a_model_that_becomes_one_of_another_family_is_checked():
    results = check_adapter(broken.SiblingPlayers())
    assert "same, sibling" in next(
        result.detail
        for result in results
        if result.check == "forms-are-as-refused" and "by" in result.example
    )
    assert [result for result in results if not result.passed] == []


def test_experts_are_checked_where_they_are_players():
    results = check_adapter(broken.ExpertPlayers())
    assert {result.example for result in results} == {"tiny", "tiny by expert"}
    assert [result for result in results if not result.passed] == []


def test_parts_and_experts_are_checked_together():
    results = check_adapter(broken.MixedPlayers())
    assert {result.example for result in results} == {"tiny", "tiny by mixed"}
    assert [result for result in results if not result.passed] == []


def test_libraries_print_nothing_while_the_kit_runs(capfd):
    check_adapter(broken.Sound())
    assert capfd.readouterr() == ("", "")


def test_what_adapters_import_prints_nothing_after_the_kit():
    program = "import shapcut.testing, transformers.modeling_utils, shapcut_adapters.transformers.adapter"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_single_examples_can_be_chosen():
    assert {result.example for result in check_adapter(broken.Sound(), only=["tiny"])} == {"tiny"}
    with pytest.raises(InputError, match="no example 'tinny': did you mean 'tiny'"):
        check_adapter(broken.Sound(), only=["tinny"])


def test_failures_are_listed_with_example_check_and_reason():
    with pytest.raises(
        ConformanceError, match="'hf-decoder' fails 1 checks:\ntiny: parameter-count: removing"
    ):
        assert_adapter(broken.CountsParametersTwice())


def test_an_adapter_that_raises_fails_the_check_and_the_kit_goes_on(monkeypatch):
    def unwell(*_args, **_kwargs):
        raise ZeroDivisionError("unwell")

    monkeypatch.setattr(broken.Sound, "stack", unwell)
    failed = {result.check: result.detail for result in check_adapter(broken.Sound()) if not result.passed}
    assert set(failed) == {
        "stack-equals-bypass",
        "stack-leaves-states",
        "unembedding-equals-readout",
        "projections-are-added",
        "dtype-and-device-kept",
    }
    assert set(failed.values()) == {"ZeroDivisionError: unwell"}
