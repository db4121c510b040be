"""Finished runs for trackers, with stand-ins for their packages."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shapcut.support.run_directory import Run
from shapcut_plugins.trackers import TRACKERS, track

OTHER = {"source": "texts/my words.txt", "perplexity": {"perplexity": 9.0}}
MODEL = {"perplexity": {"perplexity": "Infinity"}, "parameters": 10, "other_texts": [OTHER]}
MANIFEST = {
    "recipe": {"model": "path", "remove": 2, "ratio": None},
    "phases": {"estimate": {"seconds": 2.0}, "select": {"seconds": 1.0}},
    "result": {
        "dense": {"perplexity": {"perplexity": 3.0}, "parameters": 20},
        "pruned": MODEL,
        "differences": [{"task": "piqa", "metric": "acc", "before": 0.6, "after": 0.5}],
    },
}
FIGURES = {
    "seconds": 3.0,
    "dense/perplexity": 3.0,
    "dense/parameters": 20.0,
    "pruned/perplexity": float("inf"),
    "pruned/parameters": 10.0,
    "pruned/perplexity/texts_my words.txt": 9.0,
    "dense/piqa/acc": 0.6,
    "pruned/piqa/acc": 0.5,
}


class Calls:
    """A package that writes down what it is asked."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self.made.append((name, given[0] if given else named))
            return nullcontext()

        return call


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return Run(tmp_path)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_options_and_figures(
    name: str, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Calls()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setenv(TRACKERS, name)
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    track(finished)
    config = {"model": "path", "remove": 2}
    named = {"project": "mine", "name": finished.directory.name, "config": config}
    assert package.made == [("init", named), ("log", FIGURES), ("finish", {})]


def test_mlflow_gets_options_and_figures(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Calls()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setenv(TRACKERS, "mlflow")
    track(finished)
    assert [name for name, _ in package.made] == ["start_run", "log_params", "log_metrics"]
    assert package.made[-1][1] == {
        name.replace("my words", "my_words"): value for name, value in FIGURES.items()
    }


def test_a_tracker_that_fails_ends_no_run(
    finished: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    monkeypatch.setenv(TRACKERS, "nothing, wandb")
    track(finished)
    assert "names 'nothing'" in caplog.text
    assert "the run is not in wandb: AttributeError" in caplog.text


def test_nothing_is_read_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKERS, raising=False)
    track(Run(tmp_path / "nowhere"))
