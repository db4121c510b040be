"""The report of a run, on a real small run and on damaged or hostile copies of its files."""

import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shapcut.cli.help import Group
from shapcut.cli.main import run as run_command
from shapcut.game.plan import RemovalPlan
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.support.run_directory import Run
from shapcut_plugins.report import figures as report_measurements
from shapcut_plugins.report.charts.contributions import TOP, contribution_chart
from shapcut_plugins.report.charts.curve import TOP as CURVE_TOP
from shapcut_plugins.report.charts.curve import curve_chart
from shapcut_plugins.report.charts.depth_map import depth_map
from shapcut_plugins.report.charts.layers import layer_chart
from shapcut_plugins.report.charts.pairs import Pairs, heat_map, scatters
from shapcut_plugins.report.charts.scale import Scale, axis_ticks, perplexity_scale
from shapcut_plugins.report.command import add_report_command
from shapcut_plugins.report.page import content_policy
from shapcut_plugins.report.report import render_report, write_report
from shapcut_plugins.report.run_data import Cut, PlayerFacts, read_run
from shapcut_plugins.report.summary import interaction, why

HOSTILE = "<script>alert('&\"')</script>"
DECODING = report_measurements.LABELS["latency.decode_seconds"].text
VOID = {"meta", "br", "img", "input"}


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
    host = build_host()
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


def bars_of(run: Run) -> list[str | None]:
    """The class of each bar of the chart of contributions."""
    html = run.report.read_text(encoding="utf-8")
    section = html.partition('<section id="contributions">')[2].partition("</section>")[0]
    return [values["class"] for tag, values in Page(section).tags if tag == "rect" and "x" in values]


def test_a_finished_run_has_a_report_with_all_parts(finished: Path) -> None:
    run = Run(finished)
    page = Page(run.report.read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
    result = manifest["result"]
    assert page.headings == ["was removed", "Dense against", "Contributions along", "surrogate can be"]
    assert ", ".join(str(player) for player in result["plan"]["removed"]) in text
    assert f"Why these: {result['plan']['reason']}." in text
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
    bars = bars_of(Run(finished))
    assert [index for index, kind in enumerate(bars) if kind == "removed"] == removed
    assert len(bars) == 6
    titles = [text for text in page.texts if text.startswith("player ") and "contribution" in text]
    assert [index for index, title in enumerate(titles) if title.endswith(", removed")] == removed
    assert all("standard error" in title for title in titles)


def test_the_report_needs_nothing_from_elsewhere(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "img", "iframe", "object", "base"})
    assert not [values for _, values in page.tags if {"src", "style", "onclick"} & set(values)]
    anchors = {values["href"] for _, values in page.tags if "href" in values}
    assert anchors
    assert anchors <= {f"#{values['id']}" for _, values in page.tags if "id" in values}
    assert set(re.findall(r"https?://[^\"]*", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html


def test_the_only_script_that_may_run_is_the_page_s_own(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    (policy,) = [values["content"] for tag, values in Page(html).tags if "http-equiv" in values]
    assert policy == content_policy(script)
    assert "script-src 'sha256-" in policy
    assert "default-src 'none'" in policy
    assert "connect" not in policy


def test_everything_from_files_is_escaped(copy: Run) -> None:
    def taint(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: taint(value) for key, value in content.items()}
        return HOSTILE if isinstance(content, str) else content

    def taint_manifest(manifest: dict[str, Any]) -> None:
        manifest.update(taint(manifest))
        manifest["result"]["plan"] |= {"granularity": "block", "form": "same"}
        for free in ("recipe", "versions", "fingerprint", "machine", "phases"):
            manifest[free][HOSTILE] = next(iter(manifest[free].values()))
        manifest["recipe"]["then"] = [HOSTILE]
        manifest["phases"]["select"]["evaluations_measured"][HOSTILE] = 3

    edit(copy.manifest, taint_manifest)
    edit(copy.contributions, lambda content: content.update(taint(content), fidelity_held_out=None))
    html = render_report(read_run(copy), [(HOSTILE, "")])
    assert html.count("<script") == 1
    assert HOSTILE not in html
    assert [tag for tag, _ in Page(html).tags if tag == "script"] == ["script"]
    assert html.count("&lt;script&gt;") > 30


def test_a_run_that_only_scored_has_the_parts_that_there_are(copy: Run) -> None:
    copy.plan.unlink()
    edit(copy.manifest, lambda manifest: manifest.pop("result"))
    page = report_of(copy)
    assert page.headings == ["Contributions along", "surrogate can be"]
    assert set(bars_of(copy)) == {"kept"}


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
    manifest = json.loads(copy.manifest.read_text(encoding="utf-8"))
    decoding = manifest["result"]["pruned"]["latency"]["decode_seconds"]

    def spoil(manifest: dict[str, Any]) -> None:
        manifest["result"]["pruned"]["perplexity"]["perplexity"] = "Infinity"
        manifest["result"]["dense"]["latency"] = None

    edit(copy.manifest, spoil)
    edit(copy.contributions, lambda content: content["players"][2].update(value=None, standard_error=None))
    page = report_of(copy)
    assert "inf" in page.texts
    dense, pruned = (page.texts[page.texts.index(DECODING) + further] for further in (2, 4))
    assert (dense, pruned) == ("\N{EN DASH}", f"{decoding * 1e3:,.1f}")
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

    cli = Group()
    add_report_command(cli, build_host(extra=[Adder()]).manager.hook)
    cli.main(["report", str(copy.directory)], standalone_mode=False)
    assert "<h2>Asked again</h2>" in copy.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda run: shutil.rmtree(run.directory), "run is not a directory"),
        (lambda run: run.manifest.unlink(), "run has no manifest.json"),
        (
            lambda run: run.manifest.write_text('{"format_version": 1,'),
            "manifest.json is damaged: ",
        ),
        (lambda run: run.manifest.write_bytes(b"\xff\xfe"), "manifest.json is damaged: "),
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


def test_pairs_and_held_out_predictions_are_recorded_and_drawn(finished: Path) -> None:
    content = json.loads((finished / "contributions.json").read_text(encoding="utf-8"))
    fidelity = content["fidelity_held_out"]
    assert len(fidelity["predicted"]) == len(fidelity["measured"]) == fidelity["coalitions"]
    assert max(fidelity["absent"]) <= 6
    html = (finished / "report.html").read_text(encoding="utf-8")
    texts = Page(html).texts
    drawn = [text for text in texts if "predicted" in text and "measured" in text and text[:1].isdigit()]
    assert len(drawn) >= fidelity["coalitions"]
    first = f"predicted {fidelity['predicted'][0]:.4g}, measured {fidelity['measured'][0]:.4g}"
    assert f"{fidelity['absent'][0]} absent: {first}" in drawn
    assert len(content["interaction_errors"]) == len(content["interactions"]) == 6
    assert any("told apart" in text for text in texts)
    at_target = fidelity["at_target"]
    assert at_target["coalitions"] == fidelity["absent"].count(2)
    assert 1 not in fidelity["absent"]
    assert any(at_target["in_words"][1:] in text for text in texts)


def test_what_was_measured_is_shown_even_without_a_label() -> None:
    dense = {
        "perplexity": {"perplexity": 10.0, "n_tokens": 5},
        "caches": {"lengths": [8], "sizes": [3_000_000], "batch_size": 1},
        "tasks": [{"task": "quiz", "shots": 3, "metrics": {"acc": 0.5}, "errors": {"acc": 0.1}}],
        "warm_up_seconds": 0.25,
        "held_out_source": "text",
    }
    pruned = dense | {"perplexity": {"perplexity": "Infinity"}, "warm_up_seconds": 0.5}
    table = {row.name: (row.values, row.changes) for row in report_measurements.rows([dense, pruned])}
    assert table == {
        "perplexity, held-out text": (("10.00", "inf"), ("",)),
        "cache after 8 tokens (MB)": (("3", "3"), ("equal",)),
        "quiz: acc": (("0.5", "0.5"), ("equal",)),
        "warm up (ms)": (("250", "500"), ("+100.0%",)),
    }
    assert ("predicted tokens", "5") in report_measurements.settings(dense)


def test_the_sentences_name_who_was_spared_and_who_went_instead(copy: Run) -> None:
    facts = read_run(copy)
    assert facts.contributions is not None
    assert facts.plan is not None
    values = [0.5, 0.1, 0.2, 0.6, 0.7, None]
    players = tuple(PlayerFacts(player=i, value=v, standard_error=None) for i, v in enumerate(values))
    pairs = [[0.0] * 6 for _ in range(6)]
    pairs[0][1] = pairs[1][0] = 0.3
    pairs[1][2] = pairs[2][1] = -0.4
    pairs[0][5] = pairs[5][0] = -9.0
    scored = facts.contributions.model_copy(
        update={"players": players, "interactions": rows_of(pairs), "interaction_errors": alike(6, 0.01)}
    )
    plan = facts.plan.removing([0, 1], 6, reason="so")
    first, second, third = why(plan, scored)
    assert (first, second) == ("Why these: so.", "1 of the 2 removed are among the 2 of lowest contribution.")
    assert third.startswith("2 would have gone by contribution alone; 0 went instead")
    assert "-0.2 against +0.3" in third
    found = Pairs.of(pairs, alike(6, 0.01), [5])
    assert "that of 1 and 2 (-0.4, standard error of the distance 0.01)" in interaction(found)
    assert interaction(found).startswith("2 of 10 interactions are told apart")

    vague = scored.model_copy(update={"interaction_errors": alike(6, 0.3)})
    assert "against" not in why(plan, vague)[2]
    unsure = [player.model_copy(update={"standard_error": 0.12}) for player in players]
    third = why(plan, scored.model_copy(update={"players": tuple(unsure)}))[2]
    assert third == (
        "2 would have gone by the estimates of single players, which are not told apart from those of 0."
    )


def rows_of(matrix: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix)


def alike(players: int, number: float) -> tuple[tuple[float, ...], ...]:
    """A matrix of one number."""
    return rows_of([[number] * players for _ in range(players)])


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (1e-5, "all 435 lie between -0.00935 and -0.00933, within their uncertainty"),
        (0.0, "all are -0.00934, within their uncertainty"),
    ],
)
def test_interactions_within_their_uncertainty_explain_nothing(spread: float, words: str) -> None:
    noise = np.random.default_rng(0).uniform(-spread, spread, (30, 30))
    values = (-0.00934 + np.triu(noise, 1) + np.triu(noise, 1).T).tolist()
    found = Pairs.of(values, alike(30, 1e-4))
    assert found.told_apart == ()
    assert heat_map(found, 30, removed=[]) is None
    assert interaction(found) == f"No interaction is told apart from the others: {words}."
    assert "repeat it" in interaction(Pairs.of(values, None))
    assert interaction(Pairs.of([], None)) == ""


def test_contributions_within_their_uncertainty_explain_nothing(copy: Run) -> None:
    edit(copy.contributions, lambda content: [p.update(value=1.0 + p["player"] / 1e6, standard_error=0.1)
                                              for p in content["players"]])  # fmt: skip
    facts = read_run(copy)
    assert facts.plan is not None
    assert facts.contributions is not None
    sentences = why(facts.plan, facts.contributions)
    assert len(sentences) == 2
    assert sentences[1].startswith("No player's contribution is told apart")
    assert "No player is told apart from another." in " ".join(report_of(copy).texts)


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_change_within_its_interval_is_not_told_apart(copy: Run, told_apart: bool) -> None:
    ends = {"low": 0.9 if told_apart else 0.99, "high": 0.95 if told_apart else 1.2}

    def narrow(manifest: Any) -> None:
        for change in manifest["result"]["changes"].values():
            change.update(ends, told_apart=told_apart)

    edit(copy.manifest, narrow)
    text = " ".join(report_of(copy).texts)
    assert (
        "which is not told apart from no change (95 % interval -1.0% to +20.0%)" in text
    ) is not told_apart
    assert ("The time of a further token is not told apart" in text) is not told_apart
    assert ("A further token takes" in text) is told_apart


def test_a_run_without_intervals_says_so(copy: Run) -> None:
    edit(copy.manifest, lambda manifest: manifest["result"].pop("changes"))
    edit(copy.contributions, lambda scored: scored.pop("interaction_errors"))
    text = " ".join(report_of(copy).texts)
    assert text.count("no interval was recorded") == 2
    assert "recorded no uncertainty of its interactions" in text


def test_cells_of_the_heat_map_are_as_strong_as_their_interactions() -> None:
    values = [[0.0, -2.0, 1.0], [-2.0, 0.0, 0.1], [1.0, 0.1, 0.0]]
    drawn = heat_map(Pairs.of(values, alike(3, 0.2)), 3, removed=[1])
    assert drawn is not None
    cells = {cell.text: (cell.strength, cell.negative) for cell in drawn.cells}
    assert cells == {"0 and 1: -2": (1.0, True), "0 and 2: +1": (0.765, False)}
    first, second = drawn.cells
    assert first.x == second.x
    assert second.y == pytest.approx(first.y + drawn.cell)
    assert heat_map(Pairs.of([[0.0, 0.0], [0.0, 0.0]], alike(2, 0.0)), 2, removed=[]) is None
    assert heat_map(Pairs.of([[0.0, 1.0], [1.0, 0.0]], alike(2, 0.0), without=[1]), 2, removed=[]) is None


def test_a_heat_map_of_many_players_draws_the_strongest_pairs() -> None:
    values = np.random.default_rng(0).uniform(0.5, 1.0, (120, 120))
    pairs = Pairs.of(((values + values.T) / 2).tolist(), alike(120, 1e-9))
    drawn = heat_map(pairs, 120, removed=[])
    assert drawn is not None
    assert len(drawn.cells) == 5000
    assert drawn.left_out == 120 * 119 // 2 - 5000
    assert drawn.cells[0].strength == 1.0
    assert len(pairs.every) == 120 * 119 // 2


def test_dots_lie_on_the_diagonal_where_prediction_and_measurement_agree() -> None:
    same, everything = scatters([(1.0, 1.0, 1), (2.0, 2.0, 2), (3.0, 2.5, 2), (float("nan"), 0.0, 1)], 2)
    assert [dot.of_target_size for dot in everything.dots] == [False, True, True]
    for dot in everything.dots[:2]:
        assert dot.x - everything.left == pytest.approx(everything.bottom - dot.y)
    assert everything.dots[2].x - everything.left > everything.bottom - everything.dots[2].y
    assert [dot.of_target_size for dot in same.dots] == [True, True]
    assert scatters([(1.0, 1.0, 1)], 1) == ()


def test_curves_have_one_mark_a_finite_cut_and_names_apart() -> None:
    methods = [
        ("one", [Cut.of(0, [10.0]), Cut.of(2, [20.0, 30.0])]),
        ("none", [Cut.of(2, [float("inf")])]),
        ("other", [Cut.of(0, [10.0]), Cut.of(2, [25.0])]),
    ]
    chart = curve_chart(methods)
    assert chart is not None
    assert [(curve.name, curve.method, len(curve.marks)) for curve in chart.curves] == [
        ("one", 0, 2),
        ("other", 2, 2),
    ]
    first, second = (curve.label[1] for curve in chart.curves)
    assert abs(first - second) >= 13
    mark = chart.curves[0].marks[1]
    assert CURVE_TOP <= mark.high < mark.y < mark.low <= chart.bottom
    assert "from 20.00 to 30.00" in mark.text
    assert curve_chart([("one", [Cut.of(2, [5.0])])]) is None


def test_perplexities_far_apart_get_a_logarithmic_axis() -> None:
    near, far = perplexity_scale([10.0, 20.0], 0.0, 100.0), perplexity_scale([10.0, 1e6], 0.0, 100.0)
    assert (near.logarithmic, far.logarithmic) == (False, True)
    assert near.place(15.0) == 50.0
    assert far.place(10.0**3.5) == pytest.approx(50.0, abs=0.2)
    assert all(0 <= place <= 100 for place, _ in far.ticks)
    assert Scale.powers(4800.0, 4800.0, 0.0, 100.0).ticks == ((50.0, "4,800"),)


def test_the_depth_map_fills_what_was_removed_by_share_of_seeds() -> None:
    drawn = depth_map([("a", 3, [[0, 2], [2]]), ("empty", 1, [])], 4)
    assert drawn is not None
    (row,) = drawn.rows
    assert [(share, text) for _, share, text in row.cells] == [
        (0.5, "a: 0 removed in 1 of 2 seeds"),
        (1.0, "a: 2 removed in 2 of 2 seeds"),
    ]
    assert row.cells[1][0] - row.cells[0][0] == pytest.approx(2 * (drawn.cell + 1))


@pytest.mark.parametrize(("players", "known"), [(6, True), (6, False), (5, True)])
def test_other_methods_are_shown_only_where_their_perplexities_compare(
    copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], players: int, known: bool
) -> None:
    dense = json.loads(copy.manifest.read_text(encoding="utf-8"))["result"]["dense"]
    row = {"method": "greedy", "source": "", "n_remove": 1, "removed": [3], "calibration_nats": None}
    row |= {"held_out_perplexity": 300.0, "evaluations": 1, "tokens": 1, "seconds": 1.0}
    row |= {"reason": "", "failure": ""}
    text = {"calibration": "c", "calibration_windows": [1, 2], "held_out": "h", "held_out_windows": [1, 2]}
    text |= {"adds_bos": False, "held_out_fingerprint": dense["held_out_fingerprint"] if known else "other"}
    comparison = {
        "format_version": 1,
        "model": {"source": "m", "class": "M", "players": players},
        "text": text,
        "dense_held_out_perplexity": 250.0,
        "rows": [row | {"seed": 0}, row | {"seed": 1, "held_out_perplexity": 400.0}],
    }
    other = Run(tmp_path / "compared")
    other.directory.mkdir()
    other.comparison.write_text(json.dumps(comparison))
    status = run_command(["report", str(copy.directory), "--baselines", str(other.directory)])
    if known and players == 6:
        texts = Page(copy.report.read_text(encoding="utf-8")).texts
        assert status == 0
        assert "greedy, 1 removed: perplexity 346.41 (from 300.00 to 400.00)" in texts
    else:
        assert status == 2
        complaint = "other held-out text" if players == 6 else "on a model of 5 players, this run's has 6"
        assert complaint in capsys.readouterr().err


def test_errors_of_another_shape_than_the_interactions_are_refused(copy: Run) -> None:
    edit(copy.contributions, lambda content: content["interaction_errors"].pop())
    with pytest.raises(InputError, match="interactions need 6 rows of 6 numbers"):
        write_report(copy)


def test_many_players_are_shown_by_layer() -> None:
    sizes = {"model.layers.0": 2, "model.layers.0.mlp.experts": 3, "model.layers.1": 1}
    plan = RemovalPlan.removing([3, 4], 6, layers=sizes, granularity="mixed")
    values = [0.4, 0.2, 0.9, -0.1, 0.1, None]
    players = [PlayerFacts(player=i, value=v, standard_error=None) for i, v in enumerate(values)]
    chart = layer_chart(players, plan)
    assert chart is not None
    assert [row.name for row in chart.rows] == ["layer 0, parts", "layer 0, experts", "layer 1"]
    (parts,), (stays, goes), last = (row.ranges for row in chart.rows)
    assert "2 stay, contributions 0.2 to 0.4, median 0.3" in parts.text
    assert "layer 0, experts: 2 removed, contributions -0.1 to 0.1, median 0" in goes.text
    assert (stays.removed, goes.removed, last) == (False, True, ())
    assert goes.x < chart.zero < goes.x + goes.width < parts.x
    assert goes.median == chart.zero
    assert layer_chart(players, RemovalPlan.removing([3], 6)) is None


def test_an_expert_is_compared_with_those_of_its_own_layer(copy: Run) -> None:
    scored = read_run(copy).contributions
    assert scored is not None
    values = [0.5, 0.6, 0.7, 0.1, 0.2, 0.3]  # the lowest of all are in the second layer
    players = tuple(PlayerFacts(player=i, value=v, standard_error=0.001) for i, v in enumerate(values))
    sizes = {"model.layers.0.mlp.experts": 3, "model.layers.1.mlp.experts": 3}
    plan = RemovalPlan.removing([0, 5], 6, layers=sizes, granularity="expert")
    (sentence,) = why(plan, scored.model_copy(update={"players": players}))
    assert sentence == "1 of the 2 removed are among as many of lowest contribution in their own layer."


def test_the_report_of_many_players_has_no_bar_for_each(copy: Run) -> None:
    count, sizes = 600, {f"model.layers.{layer}.mlp.experts": 100 for layer in range(6)}
    plan = RemovalPlan.removing(range(0, count, 50), count, layers=sizes, granularity="expert")

    def enlarge(manifest: Any) -> None:
        manifest["model"]["players"] = count
        manifest["result"]["plan"] = json.loads(plan.model_dump_json())

    def enlarge_scores(content: Any) -> None:
        content["players"] = [{"player": i, "value": -float(i), "standard_error": 1.0} for i in range(count)]
        content["interactions"] = content["interaction_errors"] = None

    edit(copy.manifest, enlarge)
    edit(copy.contributions, enlarge_scores)
    page = report_of(copy)
    assert len(bars_of(copy)) == 12
    assert "The numbers of the 256 lowest; contributions.json has all 600" in page.texts
    assert "layer 5: 99" in page.texts
    assert "layer 0: 0" not in page.texts
    result = json.loads(copy.manifest.read_text(encoding="utf-8"))["result"]
    points = [{"target": "x", "removed": 12, "value": None, "held_out_perplexity": 2.0, "parameters": 1}]
    series = {"curve": points, "results": {"ratio-0.1": result}}
    edit(copy.manifest, lambda manifest: manifest.update(series=series, result=None))
    assert any(text.startswith(": 12 of 600 experts.") for text in report_of(copy).texts)


def test_halves_of_the_text_with_too_few_coalitions_tell_nothing(copy: Run) -> None:
    def thin(content: Any) -> None:
        content["robustness"]["calibration_halves"] = {"kendall": -0.9, "spearman": -0.9, "coalitions": 5}

    edit(copy.contributions, thin)
    page = report_of(copy)
    assert "not known: only 5 coalitions were measured on both halves of it" in page.texts
    assert not any("halves of the text rank" in text for text in page.texts)
    edit(copy.contributions, lambda content: content["robustness"]["calibration_halves"].update(coalitions=6))
    assert any("halves of the text rank" in text for text in report_of(copy).texts)


def test_accuracies_are_told_once(copy: Run) -> None:
    score = {"task": "piqa", "samples": 4, "shots": 0, "metrics": {"acc": 0.75, "bits": 2.5}, "errors": {}}
    paired = {
        "task": "piqa",
        "metric": "acc",
        "questions": 4,
        "before": 0.75,
        "after": 0.5,
        "difference": -0.25,
    }

    def ask(manifest: Any) -> None:
        for which in ("dense", "pruned"):
            manifest["result"][which]["tasks"] = [score]
        manifest["result"]["differences"] = [paired | {"low": -0.7, "high": 0.4}]

    edit(copy.manifest, ask)
    page = report_of(copy)
    assert "piqa, acc" in page.texts
    assert "piqa: acc" not in page.texts
    assert "piqa: bits" in page.texts


def test_losses_of_a_training_are_drawn_where_they_are_finite(copy: Run) -> None:
    points = [
        {"step": 0, "loss": None, "held_back": {"one": 2.0, "other": 3.0}},
        {"step": 5, "loss": 0.5, "held_back": {"one": 2.0 + math.log(1.1), "other": "Infinity"}},
        {"step": 9, "loss": "NaN"},
    ]
    curve = {"loss": "next-token loss", "kept": False, "points": points}
    edit(copy.manifest, lambda manifest: manifest["result"].update(curves={"heal": curve}))
    page = report_of(copy)
    assert "heal: trained for 9 steps. The trained weights were not kept." in page.texts
    assert "one, step 5: +10.00%" in page.texts
    assert "Training: next-token loss" not in page.texts  # a single point
    assert "inf" in page.texts
