"""Every family that the decoder adapter claims passes the whole kit."""

import pytest

from shapcut.testing import CHECKS, run_check
from shapcut_adapters.families import FAMILIES

FAMILY_NAMES = [family.model_type for family in FAMILIES]


def test_every_claimed_family_has_an_example(adapter):
    assert list(adapter.examples()) == FAMILY_NAMES


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family_case", FAMILY_NAMES, indirect=True)
def test_conformance(family_case, check):
    result = run_check(family_case, check)
    assert result.passed, result.detail
