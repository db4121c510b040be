"""The order of steps, and that a killed run goes on after the last finished one."""

import logging
import runpy
import signal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from forks import forked
from torch import nn

from shapcut.measurement.learning_curve import LearningCurve, LearningPoint
from shapcut.steps.runner import StepResults, _done, check_order, clear_results
from shapcut.steps.step import PostProcessor, Stage, StepContext, StoredModel
from shapcut.support.errors import InputError

pytestmark = pytest.mark.long

PIPELINE = Path(__file__).parents[2] / "e2e" / "killed_steps.py"


class Quantize(PostProcessor):
    stage: ClassVar[Stage] = "quantize"
    gives_quantized: ClassVar[bool] = True

    def run(self, model: Any, context: Any) -> Any:
        return model


class Heal(Quantize):
    stage: ClassVar[Stage] = "heal"
    gives_quantized: ClassVar[bool] = False


class Export(Heal):
    stage: ClassVar[Stage] = "export"


class AnyExport(Export):
    takes_quantized: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Quantize, Heal), "'Heal' \\(heal\\) cannot follow 'Quantize'"),
        ((Quantize, Export), "'Export' needs weights in full precision, but 'Quantize' quantizes them"),
        ((Quantize, Quantize), "'Quantize' needs weights in full precision"),
        ((Heal, Quantize, AnyExport), None),
        ((Heal, Export), None),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(steps: tuple[type[Quantize], ...], message: Any) -> None:
    given = [(step.__name__, step()) for step in steps]
    if message is None:
        check_order(given)
        return
    with pytest.raises(InputError, match=message):
        check_order(given)


def test_a_quantized_original_takes_no_step_that_needs_full_precision() -> None:
    with pytest.raises(InputError, match=r"'Heal' needs .* the model is already quantized \(gptq\)"):
        check_order([("Heal", Heal())], "gptq")
    check_order([("any", AnyExport())], "gptq")


def write(directory: Path) -> None:
    (directory / "weights").write_text("w")


def test_the_last_two_results_are_kept_and_a_changed_recipe_invalidates_from_there_on(tmp_path: Path) -> None:
    specs = ("a:x=1", "b", "c")
    results = StepResults(tmp_path, specs, {"model": "m"})
    assert results.finished() == 0
    for number in (1, 2):
        (results.begin(number) / "log").write_text("half done")
        results.finish(number, write)
    assert results.result(1).exists()
    assert [path.name for path in results.result(2).iterdir()] == ["weights"]
    (results.begin(3) / "half").write_text("done")
    again = StepResults(tmp_path, specs, {"model": "m"})
    assert again.finished() == 2
    assert (again.begin(3) / "half").exists()
    changed = StepResults(tmp_path, ("a:x=1", "b", "c:y=2"), {"model": "m"})
    assert changed.finished() == 2
    assert list(changed.begin(3).iterdir()) == []
    assert StepResults(tmp_path, ("a:x=2", "b", "c:y=2"), {"model": "m"}).finished() == 0


def test_the_learning_curve_of_a_step_outlives_its_work(tmp_path: Path, llama_adapter: Any) -> None:
    specs = ("a", "b")
    results = StepResults(tmp_path, specs, {"model": "m"})
    point = LearningPoint(step=3, loss=float("nan"), held_back={"text": 2.5})
    curve = LearningCurve(loss="next-token loss", kept=False, points=(point,))
    context = StepContext(llama_adapter, cast("Any", None), cast("Any", None), None, results.begin(1), 0)
    context.keep_curve(curve)
    results.finish(1, write)
    results.begin(2)
    results.finish(2, write)
    results.clear()
    again = StepResults(tmp_path, specs, {"model": "m"})
    assert again.curve(1) is not None
    assert repr(again.curve(1)) == repr(curve)
    assert again.curve(2) is None


def test_a_damaged_result_is_made_again_from_the_one_before(tmp_path: Path) -> None:
    specs = ("a", "b", "c")
    results = StepResults(tmp_path, specs, {"model": "m"})
    for number in (1, 2, 3):
        results.begin(number)
        results.finish(number, write)
    assert [results.result(number).exists() for number in (1, 2, 3)] == [False, True, True]
    again = StepResults(tmp_path, specs, {"model": "m"})
    assert again.finished() == 3
    (again.result(3) / "weights").write_text("v")
    assert again.finished() == 2
    assert not again.result(3).exists()
    (again.result(2) / "weights").unlink()
    assert again.finished() == 0


@pytest.mark.parametrize("inputs", [{"model": "other"}, {"model": "m", "seed": 1}])
def test_results_belong_to_their_inputs(inputs: dict[str, Any], tmp_path: Path) -> None:
    results = StepResults(tmp_path, ("a",), {"model": "m"})
    results.begin(1)
    results.finish(1, write)
    assert StepResults(tmp_path, ("a",), {"model": "m"}).finished() == 1
    assert StepResults(tmp_path, ("a",), inputs).finished() == 0


def content(directory: Path) -> dict[str, bytes]:
    """All files but the model card, which gives the command."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "README.md"}


def test_a_run_killed_after_each_step_ends_like_an_undisturbed_one(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = runpy.run_path(str(PIPELINE))
    undisturbed, killed = tmp_path / "one", tmp_path / "two"
    pipeline["run"](tiny_llama_directory, undisturbed)
    assert tuple(capsys.readouterr().out.split()) == pipeline["STEPS"]
    for step in pipeline["STEPS"]:
        start = forked(partial(pipeline["run"], tiny_llama_directory, killed, kill_after=step))
        assert (start.returncode, start.stdout) == (-signal.SIGKILL, f"{step}\n"), start.stderr
    assert not killed.exists()
    pipeline["run"](tiny_llama_directory, killed)
    assert capsys.readouterr().out == ""
    assert content(killed) == content(undisturbed)
    left = {path.name for path in (tmp_path / "two.run" / "steps").rglob("*") if path.is_file()}
    assert left == {"step.json"}


def test_libraries_say_nothing_while_a_step_runs(tmp_path: Path) -> None:
    class Listening(Heal):
        def run(self, model: Any, context: Any) -> StoredModel:
            self.heard = logging.getLogger("transformers").isEnabledFor(logging.WARNING)
            (tmp_path / "stored").mkdir()
            return StoredModel(model, tmp_path / "stored")

    results, step = StepResults(tmp_path, ("listening",), {}), Listening()
    results.begin(1)
    _done(step, nn.Identity(), cast("StepContext", None), results, 1)
    assert logging.getLogger("transformers").isEnabledFor(logging.WARNING)
    assert not step.heard


def test_what_is_not_a_steps_own_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim" / "result").mkdir(parents=True)
    steps = tmp_path / "run" / "steps"
    (steps / "my-notes").mkdir(parents=True)
    (steps / ".DS_Store").touch()
    (steps / "1-compensate").symlink_to(tmp_path / "victim")
    (steps / "2-heal" / "result").mkdir(parents=True)
    (steps / "2-heal" / "curve.json").touch()
    clear_results(steps)
    assert (tmp_path / "victim" / "result").exists()
    StepResults(steps, [], {})
    left = {str(path.relative_to(steps)) for path in steps.rglob("*")}
    assert left == {"my-notes", ".DS_Store", "1-compensate"}
