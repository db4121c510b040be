import hashlib

import pytest

from shapcut.data.mixture import check_source
from shapcut.data.text import BUILT_IN_NAMES, GENERAL_FILE, read_source, split_text
from shapcut.support.errors import InputError


@pytest.mark.parametrize("word", ["Congress", "whale", "GDP"])
def test_both_parts_of_the_general_text_have_all_of_its_kinds(word: str):
    calibration, held_out = split_text(read_source("general"))
    share = held_out.count(word) / (calibration.count(word) + held_out.count(word))
    assert 0.1 < share < 0.5


def test_the_general_text_is_the_one_that_was_measured_with():
    digest = hashlib.sha256(GENERAL_FILE.read_bytes()).hexdigest()
    assert digest == "5d98f2d80fa4a9bb0ef742fd577edece9bf0048d742ddaed7ed46aa24efad887"


def test_every_built_in_text_can_be_calibrated_on_and_a_misspelt_one_is_suggested():
    check_source("+".join(BUILT_IN_NAMES))
    with pytest.raises(InputError, match="did you mean 'general'"):
        check_source("generl")
