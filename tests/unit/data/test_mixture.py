from pathlib import Path
from typing import Any

import pytest

from shapcut.comparison.compare import HeldOutText
from shapcut.data.excerpt import calibration_digest
from shapcut.data.mixture import (
    TextShare,
    apportioned,
    check_source,
    interleaved,
    other_texts,
    proportional,
    text_shares,
)
from shapcut.data.windows import all_windows, held_out_tokens, load_calibration, load_held_out
from shapcut.support.errors import InputError


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    """Two files that can be told apart by their letters."""
    names = []
    for letter, length in (("a", 4000), ("b", 1200)):
        file = tmp_path / f"{letter}.txt"
        file.write_text(letter * length)
        names.append(str(file))
    return names[0], names[1]


def letters(tokenizer: Any, windows: Any) -> str:
    """The letter that each window consists of."""
    texts = [set(tokenizer.decode(window)) for window in windows]
    assert all(len(text) == 1 for text in texts)
    return "".join(text.pop() for text in texts)


def test_a_single_source_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a+b.txt").write_text("text")
    for source in ("builtin", "a.txt", "hf:owner/set:config:train", "a+b.txt", "a.txt:2"):
        assert text_shares(source) == (TextShare(source),)


def test_sources_are_joined_by_plus_each_with_its_weight() -> None:
    expected = (TextShare("builtin"), TextShare("notes.txt", 2.0), TextShare("hf:set:config", 0.5))
    assert text_shares("builtin + notes.txt:2+hf:set:config:0.5") == expected


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("builtin+", "an empty source"),
        ("builtin+builtin:2", "names builtin twice"),
        ("builtin+a.txt:0", "gives a.txt the weight 0"),
        ("+".join(f"{n}.txt" for n in range(17)), "17 sources"),
    ],
)
def test_an_impossible_mixture_is_refused(source: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        text_shares(source)


def test_every_source_of_a_mixture_is_checked(sources: tuple[str, str]) -> None:
    check_source(f"builtin+{sources[0]}:3")
    with pytest.raises(InputError, match=r"missing\.txt does not exist"):
        check_source(f"{sources[0]}+missing.txt")


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (8, [1, 1], [4, 4]),
        (8, [1, 3], [2, 6]),
        (5, [1, 1], [3, 2]),
        (4, [1, 100], [1, 3]),
        (1, [1, 2], [0, 1]),
    ],
)
def test_windows_are_apportioned_by_weight(total: int, weights: list[float], parts: list[int]) -> None:
    assert apportioned(total, [TextShare(str(n), w) for n, w in enumerate(weights)]) == parts


def test_the_scarcest_source_limits_all_windows() -> None:
    assert proportional([100, 10], [TextShare("a"), TextShare("b", 2.0)]) == [5, 10]


def test_each_run_of_windows_has_every_share() -> None:
    owners = [0] * 4 + [1] * 12
    order = [owners[place] for place in interleaved([4, 12])]
    for start in range(0, 16, 4):
        assert sorted(order[start : start + 4]) == [0, 1, 1, 1]


def test_calibration_windows_follow_the_shares(sources: tuple[str, str], tokenizer: Any) -> None:
    mixed = load_calibration(f"{sources[0]}:3+{sources[1]}", tokenizer, samples=8, sequence_length=20)
    assert sorted(letters(tokenizer, mixed.input_ids)) == sorted("aaaaaabb")
    assert set(letters(tokenizer, mixed.input_ids[:4])) == {"a", "b"}
    assert mixed.source == f"{sources[0]}:3+{sources[1]}"


def test_held_out_windows_follow_the_shares(sources: tuple[str, str], tokenizer: Any) -> None:
    mixture = "+".join(sources)
    some = load_held_out(mixture, tokenizer, samples=6, sequence_length=20)
    assert letters(tokenizer, some.input_ids).count("b") == 3
    every = load_held_out(mixture, tokenizer, samples=None, sequence_length=20)
    assert (
        letters(tokenizer, every.input_ids).count("a") == letters(tokenizer, every.input_ids).count("b") == 15
    )
    assert tokenizer.decode(held_out_tokens(mixture, tokenizer, at_most=10)) == "aaaaabbbbb"


def test_all_windows_keep_the_shares(sources: tuple[str, str], tokenizer: Any) -> None:
    windows = letters(tokenizer, all_windows(f"{sources[0]}:2+{sources[1]}", tokenizer, 20))
    assert (windows.count("a"), windows.count("b")) == (90, 45)


def test_the_digest_of_a_mixture_depends_on_texts_and_weights(sources: tuple[str, str]) -> None:
    digests = {
        calibration_digest(text) for text in ("+".join(sources), f"{sources[0]}+{sources[1]}:2", sources[0])
    }
    assert len(digests) == 3
    Path(sources[1]).write_text("c" * 1200)
    assert calibration_digest("+".join(sources)) not in digests


def test_a_source_of_the_mixture_is_no_held_out_text(sources: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="is the calibration text"):
        HeldOutText(sources[1], 2, 16).check(f"builtin+{sources[1]}:2")
    HeldOutText(sources[1], 2, 16).check(f"builtin+{sources[0]}")


def test_other_texts_are_those_that_are_not_judged_on_anyway(
    sources: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sources
    assert other_texts(None, "builtin") == ("general",)
    assert other_texts(None, "self") == other_texts(None, one) == ("builtin", "general")
    assert other_texts(None, f"{one}:2+builtin") == (one, "builtin", "general")
    monkeypatch.chdir(Path(one).parent)
    assert other_texts(["a.txt", two, "b.txt", "builtin"], one) == (two, "builtin")
    assert other_texts([f"{one}+{two}"], one) == (f"{one}+{two}",)
    assert other_texts(["none"], one) == ()
