"""The report of a run, on a real small run and on damaged or hostile copies of its files."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shapcut import builtin
from shapcut.cli.main import run as run_command
from shapcut.errors import InputError
from shapcut.hookspecs import hookimpl
from shapcut.host import build_host
from shapcut.pipeline import prune
from shapcut.recipe import make_recipe
from shapcut.run import Run
from shapcut_plugins.report import render_report, report_command, write_report
from shapcut_plugins.report_chart import TOP, axis_ticks, contribution_chart
from shapcut_plugins.report_data import PlayerFacts, read_run

HOSTILE = "<script>alert('&\"')</script>"
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Every tag with its attributes, the texts, and whether all elements were closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    @property
    def headings(self) -> list[str]:
        text = " ".join(self.texts)
        known = (
            "was removed",
            "would be removed",
            "Dense against",
            "Contributions along",
            "surrogate can be",
        )
        return [heading for heading in known if heading in text]


class Sections:
    """A plugin that adds to reports."""

    @hookimpl
    def shapcut_report_sections(self, run: Run) -> list[tuple[str, str]]:
        return [("More & more", f"<p id='mine'>{run.directory.name}</p>")]


@pytest.fixture(scope="module")
def finished(tiny_llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that pruned two of six blocks; not to be changed."""
    directory = tmp_path_factory.mktemp("report")
    host = build_host(core=[builtin])
    host.manager.register(Sections())
    options = {"model": str(tiny_llama_directory), "remove": 2, "budget": 24, "then": ["cast"], "samples": 2}
    sizes = {"sequence_length": 24, "finalist_samples": 2, "held_out_samples": 2}
    prune(make_recipe(options | sizes), directory / "out", host, run_directory=directory / "run")
    return directory / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Run:
    """A copy of the run, to be changed, without its report."""
    shutil.copytree(finished, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.report.unlink()
    return run


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def report_of(run: Run) -> Page:
    write_report(run)
    return Page(run.report.read_text(encoding="utf-8"))


def test_a_finished_run_has_a_report_with_all_parts(finished: Path) -> None:
    run = Run(finished)
    page = Page(run.report.read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
    result = manifest["result"]
    assert page.headings == ["was removed", "Dense against", "Contributions along", "surrogate can be"]
    assert ", ".join(str(player) for player in result["plan"]["removed"]) in text
    assert result["plan"]["reason"] in text
    for model in (result["dense"], result["pruned"]):
        assert f"{model['perplexity']['perplexity']:,.2f}" in page.texts
        assert f"{model['parameters']:,}" in page.texts
        assert f"{model['weight_bytes'] / 1e6:,.2f}" in page.texts
        assert f"{model['latency']['decode_seconds'] * 1e3:,.1f}" in page.texts
    assert f"{manifest['phases']['select']['block_runs']:,}" in page.texts
    provenance = [manifest["command"], *manifest["versions"].values(), *manifest["fingerprint"].values()]
    assert set(provenance) <= set(page.texts)
    assert {"none added", "2 \N{MULTIPLICATION SIGN} 24", '["cast"]'} <= set(page.texts)
    assert [path.name for path in finished.iterdir() if path.name.startswith(".report")] == []


def test_sections_of_other_plugins_are_appended(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert "<h2>More &amp; more</h2>" in html
    assert "<p id='mine'>run</p>" in html


def test_the_chart_marks_removed_players_in_words(finished: Path) -> None:
    page = Page((finished / "report.html").read_text(encoding="utf-8"))
    removed = json.loads((finished / "plan.json").read_text(encoding="utf-8"))["removed"]
    bars = [values["class"] for tag, values in page.tags if tag == "rect" and "x" in values]
    assert [index for index, kind in enumerate(bars) if kind == "removed"] == removed
    assert len(bars) == 6
    titles = [text for text in page.texts if text.startswith("player ") and "contribution" in text]
    assert [index for index, title in enumerate(titles) if title.endswith(", removed")] == removed
    assert all("standard error" in title for title in titles)


def test_the_report_needs_nothing_from_elsewhere(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not [values for _, values in page.tags if {"src", "href", "style"} & set(values)]
    assert re.findall(r"https?://[^\"]*", html) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in html
    assert "@import" not in html


def test_everything_from_files_is_escaped(copy: Run) -> None:
    def taint(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: taint(value) for key, value in content.items()}
        return HOSTILE if isinstance(content, str) else content

    def taint_manifest(manifest: dict[str, Any]) -> None:
        manifest.update(taint(manifest))
        manifest["result"]["plan"]["granularity"] = "block"
        for free in ("recipe", "versions", "fingerprint", "machine", "phases"):
            manifest[free][HOSTILE] = next(iter(manifest[free].values()))
        manifest["recipe"]["then"] = [HOSTILE]
        manifest["phases"]["select"]["evaluations_measured"][HOSTILE] = 3

    edit(copy.manifest, taint_manifest)
    edit(copy.contributions, lambda content: content.update(taint(content), fidelity_held_out=None))
    html = render_report(read_run(copy), [(HOSTILE, "")])
    assert "<script" not in html
    assert [tag for tag, _ in Page(html).tags if tag == "script"] == []
    assert html.count("&lt;script&gt;") > 30


def test_a_run_that_only_scored_has_the_parts_that_there_are(copy: Run) -> None:
    copy.plan.unlink()
    edit(copy.manifest, lambda manifest: manifest.pop("result"))
    page = report_of(copy)
    assert page.headings == ["Contributions along", "surrogate can be"]
    assert "removed" not in {values.get("class") for tag, values in page.tags if "x" in values}


def test_a_plan_that_was_not_carried_out_is_not_called_removed(copy: Run) -> None:
    edit(copy.manifest, lambda manifest: manifest.pop("result"))
    edit(copy.manifest, lambda manifest: manifest.update(status="running", finished=None))
    page = report_of(copy)
    assert page.headings[0] == "would be removed"
    assert "not finished: running" in page.texts


def test_a_plan_made_earlier_has_no_contributions(copy: Run) -> None:
    copy.contributions.unlink()
    edit(copy.manifest, lambda manifest: manifest.update(phases={}))
    assert report_of(copy).headings == ["was removed", "Dense against"]


def test_figures_that_are_no_numbers_are_shown_as_such(copy: Run) -> None:
    def spoil(manifest: dict[str, Any]) -> None:
        manifest["result"]["pruned"]["perplexity"]["perplexity"] = "Infinity"
        manifest["result"]["dense"]["latency"] = None

    edit(copy.manifest, spoil)
    edit(copy.contributions, lambda content: content["players"][2].update(value=None, standard_error=None))
    page = report_of(copy)
    assert "inf" in page.texts
    assert "one further token (ms)" not in page.texts
    assert any(text.startswith("player 2: no finite contribution") for text in page.texts)
    assert "?" in page.texts


def test_the_command_writes_the_report_and_prints_its_path(
    copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.report.write_text("an earlier one")
    assert run_command(["report", str(copy.directory)]) == 0
    assert capsys.readouterr().out == f"{copy.report}\n"
    assert copy.report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_asks_other_plugins_for_sections(copy: Run) -> None:
    class Adder:
        @hookimpl
        def shapcut_report_sections(self) -> list[tuple[str, str]]:
            return [("Asked again", "<p>yes</p>")]

    report_command(build_host(core=[builtin, Adder()]).manager.hook)(copy.directory)
    assert "<h2>Asked again</h2>" in copy.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda run: shutil.rmtree(run.directory), "run is not a directory"),
        (lambda run: run.manifest.unlink(), "run has no manifest.json"),
        (
            lambda run: run.manifest.write_text('{"format_version": 1,'),
            "manifest.json is damaged: the file: ",
        ),
        (lambda run: run.manifest.write_bytes(b"\xff\xfe"), "manifest.json is damaged: the file: "),
        (lambda run: run.contributions.write_text("[]"), "contributions.json is damaged: the file: "),
        (
            lambda run: edit(run.contributions, lambda content: content["players"][1].update(value="much")),
            "contributions.json is damaged: players.1.value: ",
        ),
        (
            lambda run: edit(run.manifest, lambda content: content.update(format_version=2)),
            "manifest.json is damaged: format_version: ",
        ),
    ],
)
def test_what_is_not_the_directory_of_a_run_is_refused_in_one_line(
    copy: Run, capsys: pytest.CaptureFixture[str], damage: Callable[[Run], object], complaint: str
) -> None:
    damage(copy)
    assert run_command(["report", str(copy.directory)]) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1
    assert not copy.report.exists()


def test_a_damaged_plan_is_refused(copy: Run) -> None:
    edit(copy.manifest, lambda manifest: manifest.pop("result"))
    copy.plan.write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json is not a removal plan"):
        write_report(copy)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (0.0, 0.87), (-0.2, 0.01), (-3e-7, 2e-7), (0.0, 12345.0), (-1.0, 1.0)]
)
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    ticks = axis_ticks(low, high)
    assert ticks[0] <= low
    assert high <= ticks[-1]
    assert 3 <= len(ticks) <= 8
    assert 0.0 in ticks
    assert len({f"{tick:g}" for tick in ticks}) == len(ticks)


def test_bars_and_error_bars_are_where_the_axis_says() -> None:
    players = [
        PlayerFacts(player=0, value=2.0, standard_error=1.0),
        PlayerFacts(player=1, value=-1.0, standard_error=None),
    ]
    chart = contribution_chart(players, removed=[1])
    places = SimpleNamespace(**{f"at_{label.replace('-', 'minus_')}": y for y, label in chart.ticks})
    first, second = chart.bars
    assert (first.y, first.y + first.height) == pytest.approx((places.at_2, places.at_0))
    assert first.whisker == pytest.approx((places.at_3, places.at_1))
    assert (second.y, second.y + second.height) == pytest.approx((places.at_0, places.at_minus_1))
    assert second.whisker is None
    assert (first.removed, second.removed) == (False, True)
    assert chart.zero == places.at_0
    assert chart.ticks[-1][0] == TOP
    assert chart.left < first.x < first.x + first.width < second.x < second.x + second.width < chart.right


def test_the_axis_holds_whole_error_bars() -> None:
    chart = contribution_chart([PlayerFacts(player=0, value=1.0, standard_error=1.7)], removed=[])
    assert chart.bars[0].whisker is not None
    top, bottom = chart.bars[0].whisker
    assert TOP <= top < chart.zero < bottom <= chart.bottom


def test_many_players_make_a_wide_chart_and_keep_their_labels_apart() -> None:
    chart = contribution_chart(
        [PlayerFacts(player=index, value=1.0, standard_error=0.1) for index in range(120)], removed=[]
    )
    assert chart.width > 2400
    assert chart.bars[-1].x + chart.bars[-1].width < chart.right < chart.width
