"""A distribution that is not shapcut's own brings a model, its adapter and its way of storing models."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.contracts import Adapter

SIZES = ["--samples", "2", "--sequence-length", "16", "--held-out-samples", "4"]


@pytest.fixture
def toy_adapter(installed: None) -> Adapter:
    adapter: Adapter = importlib.import_module("shapcut_toy.adapter").ToyAdapter()
    return adapter


@pytest.fixture
def checkpoint(tmp_path: Path, toy_adapter: Adapter) -> Path:
    """A stored random model."""
    directory = tmp_path / "five-layers"
    directory.mkdir()
    toy_adapter.save(toy_adapter.example(seed=3)[0], directory)
    return directory


@pytest.fixture
def another_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs one more distribution, of one module with the given name and text."""
    names = []

    def install(name: str, text: str) -> None:
        site = tmp_path / name
        information = site / f"{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (site / f"{name}.py").write_text(text)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[shapcut]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(site)
        names.append(name)

    yield install
    for name in names:
        sys.modules.pop(name, None)


def succeeded(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command prints as JSON."""
    status = run([*arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command leaves."""
    status = run(arguments)
    captured = capsys.readouterr()
    assert status == BAD_INPUT, captured.err
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def commands(model: Path, out: Path) -> list[list[str]]:
    """Every command that takes a model."""
    return [
        ["inspect", str(model)],
        ["evaluate", str(model), *SIZES[2:]],
        ["score", str(model), "--run", str(out / "run"), *SIZES],
        ["prune", str(model), "--out", str(out / "pruned"), "--remove", "2", *SIZES],
    ]


def test_the_command_line_finds_it(site: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(site)!r}); from shapcut.cli import main; main()"
    command = [sys.executable, "-W", "error::UserWarning", "-c", script, "adapters", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert {"adapter": "toy", "distribution": "shapcut-toy-adapter", "families": ["toy"]} in json.loads(
        done.stdout
    )
    assert done.stderr == ""


@pytest.mark.usefixtures("installed")
def test_it_passes_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    results = succeeded(["check-adapter", "toy"], capsys)
    assert len(results) > 10
    assert all(result["passed"] for result in results)


def test_inspect(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = succeeded(["inspect", str(checkpoint)], capsys)
    assert (found["adapter"], found["class"], found["fast_evaluation"]) == ("toy", "ToyModel", True)
    assert [player["name"] for player in found["players"]] == [f"layers.{index}" for index in range(5)]


def test_prune_and_evaluate(
    checkpoint: Path, tmp_path: Path, toy_adapter: Adapter, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned"
    options = ["--remove", "2", "--budget", "20", *SIZES]
    result = succeeded(["prune", str(checkpoint), "--out", str(out), *options], capsys)
    removed = result["plan"]["removed"]
    assert len(removed) == 2
    assert "shapcut_toy.load(" in (out / "README.md").read_text()

    original, tokens = toy_adapter.example(seed=3)
    with toy_adapter.bypass(original, set(range(5)) - set(removed)):
        expected = toy_adapter.logits(original, tokens)
    pruned = importlib.import_module("shapcut_toy").load(out)
    assert torch.allclose(toy_adapter.logits(pruned, tokens), expected, atol=1e-5)

    figures = succeeded(["evaluate", str(out), *SIZES[2:]], capsys)
    assert figures["parameters"] == result["pruned"]["parameters"] < result["dense"]["parameters"]
    assert result["pruned"]["perplexity"].items() <= figures["perplexity"].items()


DAMAGE: dict[str, tuple[str, str | None, str]] = {
    "no weights": ("toy.safetensors", None, "no toy.safetensors"),
    "another config": ("toy.json", '{"width": 16, "layers": 4}', "cannot load"),
    "unknown entry": ("toy.json", '{"width": 16, "layers": 5, "heads": 2}', "exactly layers, width"),
    "not JSON": ("toy.json", "{", "is not JSON"),
}


@pytest.mark.parametrize(("file", "text", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints_are_refused(
    file: str, text: str | None, words: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_text(text)
    assert words in refused(["inspect", str(checkpoint)], capsys)


FORMAT_WITHOUT_ADAPTER = """
from torch import nn

from shapcut.contracts import CheckpointFormat
from shapcut.contracts import hookimpl


class Orphan(nn.Linear):
    pass


class Orphanage(CheckpointFormat):
    name = "orphanage"

    def claims(self, path):
        return path.suffix == ".orphan"

    def check(self, path):
        pass

    def load(self, path, *, device, dtype):
        return Orphan(2, 2), lambda text, add_special_tokens=True: {"input_ids": list(text.encode())}


@hookimpl
def shapcut_register_formats(register):
    register("orphanage", Orphanage)
"""

SECOND_ADAPTER = """
from shapcut.contracts import hookimpl
from shapcut_toy.adapter import ToyAdapter


class Rival(ToyAdapter):
    name = "rival"


@hookimpl
def shapcut_register_adapters(register):
    register("rival", Rival)
"""


@pytest.mark.usefixtures("installed")
def test_a_model_that_no_adapter_matches(
    tmp_path: Path, another_plugin: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    another_plugin("orphanage", FORMAT_WITHOUT_ADAPTER)
    model = tmp_path / "model.orphan"
    model.touch()
    for command in commands(model, tmp_path):
        line = refused(command, capsys)
        assert line.startswith("shapcut: no adapter matches Orphan; asked: ")
        assert "toy" in line


def test_a_model_that_two_adapters_match(
    checkpoint: Path,
    tmp_path: Path,
    another_plugin: Callable[[str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    another_plugin("rival", SECOND_ADAPTER)
    for command in commands(checkpoint, tmp_path):
        line = refused(command, capsys)
        assert line.startswith("shapcut: several adapters match ToyModel: rival, toy; uninstall")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "remote"
    model.mkdir()
    classes = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    (model / "config.json").write_text(json.dumps({"model_type": "remote", "auto_map": classes}))
    (model / "remote.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    for command in commands(model, tmp_path):
        line = refused(command, capsys)
        assert line.startswith("shapcut: ")
        assert line.endswith("pass --trust-remote-code if you trust it")
    assert not (tmp_path / "it-ran").exists()
