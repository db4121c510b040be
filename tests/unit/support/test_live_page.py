"""The page of a run while it goes."""

from pathlib import Path

import pytest

from shapcut.support.live_page import live_page
from shapcut.support.progress import Silent


def test_the_page_shows_what_goes_on_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    with live_page(path, Silent(), "pruning <b>") as page:
        assert "http-equiv" in path.read_text()
        assert "width=device-width" in path.read_text()
        page.say("<script>")
        with page.counting("measuring", 40) as count, page.working("in a part"):
            count(3)
            page.say("half way")
            text = path.read_text()
            assert "measuring <strong>3 of at most 40</strong>" in text
            assert "in a part" in text
            assert "pruning &lt;b&gt;" in text
            assert "&lt;script&gt;" in text
        assert "measuring" not in path.read_text()
    assert "http-equiv" not in path.read_text()
    assert "<p>done</p>" in path.read_text()


def test_a_run_that_stops_says_so(tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    with pytest.raises(KeyboardInterrupt), live_page(path, Silent(), "pruning") as page, page.working("it"):
        raise KeyboardInterrupt
    assert "<p>stopped</p>" in path.read_text()
    assert "http-equiv" not in path.read_text()
