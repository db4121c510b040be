"""Report and comparison as a browser sees them: no error, no request, and a script that works."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shapcut.cli.main import run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

HOSTILE = "<script>alert(1)<_script>\"'&"
"""A name that a directory can have."""

SIZES = ["--samples", "2", "--sequence-length", "24", "--finalist-samples", "2", "--held-out-samples", "2"]
SWITCHES = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps",
    "--enable-logging=stderr", "--virtual-time-budget=2000",
]  # fmt: skip

DRIVER = """
const box = document.querySelector('input[data-shows="0"]'); box.click();
const heading = document.querySelector('table.sortable thead button'); heading.click(); heading.click();
const mark = document.querySelector('[data-tip]');
mark.dispatchEvent(new Event('pointerover', {bubbles: true}));
"""


@pytest.fixture(scope="module")
def pages(tiny_llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report with baselines and a comparison, of a model in a directory with a hostile name."""
    directory = tmp_path_factory.mktemp("pages")
    model = directory / HOSTILE
    shutil.copytree(tiny_llama_directory, model)
    methods = ["--methods", "random,last-n,greedy", "--remove", "1,2"]
    comparing, pruning = directory / "comparing", directory / "out"
    assert run(["compare", str(model), "--run", str(comparing), *methods, *SIZES]) == 0
    command = ["prune", str(model), "--out", str(pruning), "--remove", "1,2", "--budget", "20"]
    assert run([*command, *SIZES]) == 0
    report = directory / "out.run"
    assert run(["report", str(report), "--baselines", str(comparing)]) == 0
    return report / "report.html", comparing / "comparison.html"


def opened(page: Path, scratch: Path) -> tuple[str, list[str], set[str]]:
    """The page's elements after its script ran, what the console said, and what was asked of a network."""
    assert CHROMIUM is not None
    log = scratch / "net.json"
    command = [CHROMIUM, *SWITCHES, f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console, set(requests_of_pages(log))


def requests_of_pages(log: Path) -> Iterator[str]:
    """Addresses that pages asked a network for; what the browser asks for itself has no origin."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"initiator"' in line and '"url"' in line:
            parameters = json.loads(line.rstrip(","))["params"]
            if parameters["initiator"] != "not an origin" and not parameters["url"].startswith("file:"):
                yield parameters["url"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_opens_without_errors_and_asks_nothing_of_a_network(
    pages: tuple[Path, Path], tmp_path: Path, which: int
) -> None:
    elements, console, asked = opened(pages[which], tmp_path)
    assert console == []
    assert asked == set()
    assert elements.count("data-tip=") > 10  # the page's own script ran
    assert "<script>alert(1)" not in elements
    assert "&lt;script&gt;alert(1)&lt;_script&gt;" in elements


def test_what_a_section_smuggles_in_is_seen_and_stopped(pages: tuple[Path, Path], tmp_path: Path) -> None:
    smuggled = "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/x.png' alt=''></main>"
    page = tmp_path / "page.html"
    page.write_text(pages[0].read_text(encoding="utf-8").replace("</main>", smuggled), encoding="utf-8")
    elements, console, asked = opened(page, tmp_path)
    assert len([line for line in console if "Content Security Policy" in line]) == 2
    assert asked == set()
    assert "<title>run</title>" not in elements


def test_the_check_for_requests_sees_one_without_the_policy(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png' alt=''>")
    assert opened(page, tmp_path)[2] == {"http://127.0.0.1:9/x.png"}


def test_methods_are_hidden_tables_sorted_and_values_shown(pages: tuple[Path, Path], tmp_path: Path) -> None:
    html = re.sub(r"<meta http-equiv[^>]*>", "", pages[1].read_text(encoding="utf-8"))
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    elements, console, _ = opened(page, tmp_path)
    assert console == []
    hidden = re.findall(r'<tr data-method="(\d+)" class="off">', elements)
    assert set(hidden) == {"0"}
    table = elements.partition('<table class="sortable">')[2].partition("</table>")[0]
    assert 'aria-sort="descending"' in table
    names = re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', table)
    rows = json.loads((pages[1].parent / "comparison.json").read_text(encoding="utf-8"))["rows"]
    assert names == sorted({row["method"] for row in rows}, reverse=True)
    assert re.search(r'<div class="tip" style="[^"]+">[^<]+</div>', elements)
