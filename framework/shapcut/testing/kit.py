"""Run the conformance checks and report the results."""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shapcut.models.adapter import Adapter
from shapcut.support.quiet import quiet_libraries
from shapcut.testing import (
    bypass_checks,
    config_check,
    decoding_check,
    part_check,
    projection_checks,
    refusal_checks,
    removal_checks,
    stack_checks,
)
from shapcut.testing.case import Case, cases
from shapcut.testing.comparison import ConformanceError

with quiet_libraries():
    importlib.import_module("transformers.modeling_utils")  # imports torchao if it is installed, which prints

Check = Callable[[Case], str]
"""Returns a phrase that describes the observation; raises if a guarantee is violated."""

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "example-is-usable": bypass_checks.example_is_usable,
        "identity-when-all-present": bypass_checks.identity_when_all_present,
        "bypass-restores": bypass_checks.bypass_restores,
        "bypass-copies-no-weights": bypass_checks.bypass_copies_no_weights,
        "absent-is-ignored": bypass_checks.absent_is_ignored,
        "each-absence-matters": bypass_checks.each_absence_matters,
        "first-forward-inside-bypass": bypass_checks.first_forward_inside_bypass,
        "parts-are-their-block": part_check.parts_are_their_block,
        "stack-equals-bypass": stack_checks.stack_equals_bypass,
        "stack-leaves-states": stack_checks.stack_leaves_states,
        "unembedding-equals-readout": stack_checks.unembedding_equals_readout,
        "projections-are-added": projection_checks.projections_are_added,
        "remove-equals-bypass": removal_checks.remove_equals_bypass,
        "reload-equals-removed": removal_checks.reload_equals_removed,
        "cached-decoding": decoding_check.cached_decoding,
        "removal-composes": removal_checks.removal_composes,
        "parameter-count": removal_checks.parameter_count,
        "reindexed-players": removal_checks.reindexed_players,
        "config-follows-depth": config_check.config_follows_depth,
        "bad-indices-raise-first": refusal_checks.bad_indices_raise_first,
        "refusals-have-reasons": refusal_checks.refusals_have_reasons,
        "forms-are-as-refused": refusal_checks.forms_are_as_refused,
        "dtype-and-device-kept": removal_checks.dtype_and_device_kept,
    }
)
"""Every check by its name in results."""


_OF_FORMS = frozenset(
    {
        "remove-equals-bypass",
        "reload-equals-removed",
        "cached-decoding",
        "parameter-count",
        "forms-are-as-refused",
        "dtype-and-device-kept",
    }
)
"""The checks that depend on the form of a checkpoint."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check on one example.

    Attributes:
        example: the example's name.
        check: the check's name, a key of `CHECKS`.
        passed: whether the guarantee holds.
        detail: the observation, or the violation.
    """

    example: str
    check: str
    passed: bool
    detail: str


def run_check(case: Case, name: str) -> CheckResult:
    """Run one check on one example; an exception from the adapter is a failed check."""
    if case.form != "plain" and name not in _OF_FORMS:
        return CheckResult(case.name, name, passed=True, detail="does not depend on the form")
    try:
        with quiet_libraries():
            detail = CHECKS[name](case)
    except ConformanceError as problem:
        return CheckResult(case.name, name, passed=False, detail=str(problem))
    except Exception as error:  # noqa: BLE001 - an adapter under test may raise anything
        return CheckResult(case.name, name, passed=False, detail=f"{type(error).__name__}: {error}")
    return CheckResult(case.name, name, passed=True, detail=detail)


def check_adapter(adapter: Adapter, seed: int = 0, only: Collection[str] = ()) -> list[CheckResult]:
    """Run every check on the examples of an adapter.

    Args:
        adapter: the adapter under test.
        seed: of the examples and of the random sets of players.
        only: names of examples; empty: all.

    Raises:
        InputError: if the adapter has no example of that name.
    """
    with quiet_libraries():
        return [run_check(case, name) for case in cases(adapter, seed, only) for name in CHECKS]


def assert_adapter(adapter: Adapter, seed: int = 0, only: Collection[str] = ()) -> None:
    """Run every check; for an adapter's own tests.

    Raises:
        InputError: if the adapter has no example of that name.
        ConformanceError: naming every failed check, with the reason.
    """
    failed = [result for result in check_adapter(adapter, seed, only) if not result.passed]
    if failed:
        lines = [f"{result.example}: {result.check}: {result.detail}" for result in failed]
        raise ConformanceError(f"adapter {adapter.name!r} fails {len(failed)} checks:\n" + "\n".join(lines))
