"""The card's sections on tasks and writing: only where known, and escaped."""

from shapcut.export.model_card import _writing
from shapcut.measurement.writing import Continuation, WorseText, WritingComparison


def test_text_of_a_model_cannot_break_the_card() -> None:
    hostile = "# heading\n```\n| a | <b>"
    text = _writing(
        WritingComparison(
            continuations=(Continuation(prompt=hostile, dense="plain", pruned=hostile),),
            worse=(WorseText(text=hostile, dense_nats=1.0, pruned_nats=float("inf")),),
            windows=4,
            grew=1,
        )
    )
    assert r"\# heading \`\`\` \| a \| \<b\>" in text
    assert "```" not in text
    assert "<b>" not in text
    assert "1 of 4 held-out texts, most on:" in text
    assert "1.00 to inf nats" in text


def test_nothing_is_said_without_writing() -> None:
    assert _writing(None) == ""
    nothing = WritingComparison(continuations=(), worse=(), windows=4, grew=0)
    assert _writing(nothing).rstrip().endswith("0 of 4 held-out texts.")
