"""Every family that the decoder adapter claims passes the whole kit."""

import pytest

from shapcut.testing import CHECKS, run_check
from shapcut_adapters.families import FAMILIES

FAMILY_NAMES = [family.model_type for family in FAMILIES]


def test_every_claimed_family_has_an_example(decoder_cases):
    assert sorted(decoder_cases) == sorted(FAMILY_NAMES)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_conformance(decoder_cases, family, check):
    result = run_check(decoder_cases[family], check)
    assert result.passed, result.detail
