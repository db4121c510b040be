"""``shapcut serve-check``: transformers for real, other engines by stand-ins, and for real where they are."""

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from forks import forked, script

from shapcut.cli.main import run as run_command
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import Host, build_host
from shapcut.host.open_model import find_model
from shapcut.pipeline.prune import prune
from shapcut.pipeline.serving import beside, keep
from shapcut.recipe.recipe import make_recipe
from shapcut.serving.answer import Answer, PromptAnswer, Refusal, Request
from shapcut.serving.check import ServingQuestion, check_serving
from shapcut.serving.engine import Engine, LlamaCppEngine
from shapcut.serving.process import Interpreter
from shapcut.serving.prompts import NO_TOKENIZER
from shapcut.serving.record import ServingCheck, ServingRecord
from shapcut.serving.verdict import Verdict
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.progress import Silent
from shapcut.support.run_directory import Run

pytestmark = pytest.mark.long

SIZES = {"budget": 12, "samples": 2, "sequence_length": 16, "finalist_samples": 0, "held_out_samples": 2}
VLLM, LLAMA_CPP = "SHAPCUT_VLLM_PYTHON", "SHAPCUT_LLAMA_CPP_PYTHON"
HAS_LLAMA_CPP = LLAMA_CPP in os.environ or importlib.util.find_spec("xllamacpp") is not None

MEMORY = re.compile(r"\d+ → \d+(?= \| (equal|differs))")  # peaks of two processes: never quite the same

# Two likeliest tokens at each place; SHIFT and REFUSED are what a test fills in, by the name of the model.
CODE = """
import pathlib
SHIFT, REFUSED = {shift}, {refused}
def answer(request):
    name = pathlib.Path(request["model"]).name
    if name in REFUSED:
        raise NotImplementedError(f"no {{name}}")
    known = [-1.0 + SHIFT.get(name, 0.0)] * (len(request["prompts"][0]) - 1)
    likeliest = [{{"3": -1.0, "4": -2.0}}] * request["new_tokens"]
    one = {{"log_probabilities": known, "greedy": [3] * request["new_tokens"], "likeliest": likeliest}}
    return {{"version": "7.5", "prompts": [one] * len(request["prompts"]), "prompt_tokens_per_second": 100.0}}
"""


class StandIn(Engine):
    """An engine that answers as a test wants."""

    package: ClassVar[str] = "json"
    installation: ClassVar[str] = "nothing"

    def __init__(self, place: Path, *, refused: tuple[str, ...] = (), **shift: float) -> None:
        self._script = place / "stand_in.py"
        self._script.write_text(CODE.format(shift=shift, refused=refused), encoding="utf-8")

    @property
    def script(self) -> Path:
        return self._script


class Reference:
    """Answers in the place of transformers what the stand-in answers without a shift."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def ask(self, engine: Engine, request: Request, timeout: float) -> Answer | Refusal:
        self.requests.append(request)
        known = (-1.0,) * (len(request.prompts[0]) - 1)
        new = request.new_tokens
        one = PromptAnswer(log_probabilities=known, greedy=(3,) * new, likeliest=({3: -1.0, 4: -2.0},) * new)
        return Answer(version="5", prompts=(one,) * len(request.prompts))


@pytest.fixture(scope="module")
def pruned(tiny_llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint with its run beside it; not to be changed."""
    out = tmp_path_factory.mktemp("serving") / "cut"
    prune(make_recipe({"model": str(tiny_llama_directory), "remove": 2, **SIZES}), out, build_host())
    return out


@pytest.fixture
def copy(pruned: Path, tmp_path: Path) -> Path:
    """A copy of the pruned checkpoint and its run, to be changed."""
    for place in (pruned, Run(pruned.with_name("cut.run")).directory):
        shutil.copytree(place, tmp_path / place.name)
    return tmp_path / "cut"


def check(engine: Engine, cut: Path, original: Path, reference: Reference | None = None) -> ServingCheck:
    host = build_host()
    question = ServingQuestion(
        result=cut.name,
        name="stand-in",
        engine=engine,
        interpreter=Interpreter(sys.executable),
        reference=reference or Reference(),
        repeats=0,
    )
    return check_serving(question, find_model(host, str(cut)), find_model(host, str(original)), Silent())


@pytest.mark.parametrize(
    ("behaviour", "verdict", "sentence"),
    [
        ({}, Verdict.EQUAL, "equal"),
        ({"cut": 0.5}, Verdict.WORSE, "differs though the uncut one is equal"),
        ({"cut": 0.5, "tiny-llama": 0.5}, Verdict.LIKE_UNCUT, "differs as the uncut one does"),
        (
            {"refused": ("cut",)},
            Verdict.REFUSED,
            "the engine refuses the cut only: NotImplementedError: no cut",
        ),
        (
            {"refused": ("cut", "tiny-llama")},
            Verdict.UNSUPPORTED,
            "the engine does not support this model uncut either: NotImplementedError: no cut",
        ),
        (
            {"refused": ("tiny-llama",), "cut": 0.5},
            Verdict.ALONE,
            "differs, and the engine refuses the uncut one: NotImplementedError: no tiny-llama",
        ),
    ],
)
def test_the_verdict_follows_from_both_models(
    pruned: Path,
    tiny_llama_directory: Path,
    tmp_path: Path,
    behaviour: dict[str, Any],
    verdict: Verdict,
    sentence: str,
):
    found = check(StandIn(tmp_path, **behaviour), pruned, tiny_llama_directory)
    assert found.verdict is verdict
    assert found.sentence == sentence
    assert found.version == (None if verdict is Verdict.UNSUPPORTED else "7.5")


def test_both_models_and_transformers_read_the_same_held_out_text(
    pruned: Path, tiny_llama_directory: Path, tmp_path: Path
):
    reference = Reference()
    found = check(StandIn(tmp_path), pruned, tiny_llama_directory, reference)
    first, second = reference.requests
    assert first.prompts == second.prompts
    assert [request.cached for request in reference.requests] == [False, False]
    assert (found.text.source, found.text.prompts) == ("builtin", len(first.prompts))
    assert {len(prompt) for prompt in first.prompts} == {found.text.length}
    assert Path(first.model).name == "cut"


def test_a_model_without_tokenizer_reads_random_tokens_and_the_record_says_so(
    copy: Path, tiny_llama_directory: Path, tmp_path: Path
):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    assert check(StandIn(tmp_path), copy, tiny_llama_directory).text.source == NO_TOKENIZER


class Observer:
    """Notes the runs that were checked."""

    def __init__(self) -> None:
        self.seen: list[Path] = []

    @hookimpl
    def shapcut_serving_checked(self, run: Run) -> None:
        self.seen.append(run.serving)


def test_the_record_the_report_and_the_card_show_the_last_check_of_each_engine(
    copy: Path, tiny_llama_directory: Path, tmp_path: Path
):
    observer = Observer()
    host = build_host(extra=[observer])
    run = beside(copy)
    assert run is not None
    worse = check(StandIn(tmp_path, cut=0.5), copy, tiny_llama_directory)
    assert keep(worse, copy, run, host) == run.serving
    assert "differs though the uncut one is equal" in (copy / "README.md").read_text(encoding="utf-8")
    card_before = (copy / "README.md").read_text(encoding="utf-8")
    equal = check(StandIn(tmp_path), copy, tiny_llama_directory)
    keep(equal, copy, run, host)
    assert ServingRecord.read(run.serving).checks == (equal,)
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "differs though" not in card
    assert MEMORY.sub("", card) == MEMORY.sub(
        "", card_before.replace("differs though the uncut one is equal", "equal")
    )
    assert "| stand-in 7.5 float32 | 100 → 100 |" in card
    report = run.report.read_text(encoding="utf-8")
    assert "In inference engines" in report
    assert "stand-in 7.5 float32" in report
    assert observer.seen == [run.serving] * 2


def test_the_card_of_a_gguf_file_is_in_its_run(copy: Path, tiny_llama_directory: Path, tmp_path: Path):
    file, own = tmp_path / "cut.gguf", Run(tmp_path / "cut.gguf.run")
    file.write_bytes(b"GGUF")
    copy.with_name("cut.run").rename(own.directory)
    shutil.copyfile(copy / "README.md", own.card)
    keep(check(StandIn(tmp_path), copy, tiny_llama_directory), file, beside(file), build_host())
    assert "## In inference engines" in own.card.read_text(encoding="utf-8")


def test_a_card_of_someone_else_is_left_alone(copy: Path, tiny_llama_directory: Path, tmp_path: Path):
    (copy / "README.md").write_text("# Mine\n", encoding="utf-8")
    keep(check(StandIn(tmp_path), copy, tiny_llama_directory), copy, beside(copy), build_host())
    assert (copy / "README.md").read_text(encoding="utf-8") == "# Mine\n"


def test_a_damaged_record_is_refused_by_name(copy: Path, tiny_llama_directory: Path, tmp_path: Path):
    run = beside(copy)
    assert run is not None
    run.serving.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"serve\.json is damaged: .*remove it and check again"):
        keep(check(StandIn(tmp_path), copy, tiny_llama_directory), copy, run, build_host())


@pytest.fixture
def forked_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers in forks of this process, which has imported it: four imports cost half a minute.

    `test_process.py` and the stand-ins above start processes of their own.
    """

    def run(command: list[str], environment: dict[str, str], timeout: float, late: str) -> tuple[int, str]:
        _, worker, *arguments = command
        done = forked(script(Path(worker), *arguments), **environment)
        return done.returncode, done.stderr

    monkeypatch.setattr("shapcut.serving.process.run_bounded", run)


@pytest.mark.usefixtures("forked_transformers")
def test_transformers_runs_the_cut_with_a_cache_as_without_one(
    copy: Path, capsys: pytest.CaptureFixture[str]
):
    status = run_command(["serve-check", str(copy), "--engine", "transformers", "--repeats", "1", "--json"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    content = json.loads(printed.out)
    assert content["verdict"] == content["sentence"] == "equal"
    for side in (content["original"], content["cut"]):
        assert side["agreement"]["divergences"] == []
        assert 0 < side["agreement"]["decoding_difference"] < 1e-3  # two ways to the same
        assert side["prompt_tokens_per_second"] > 0
        assert side["peak_memory_bytes"] > 2**20
        assert [len(tokens) for tokens in side["greedy"]] == [16] * 3
    assert ServingRecord.read(copy.with_name("cut.run") / "serve.json").checks[0].engine == "transformers"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = run_command(["serve-check", *arguments])
    printed = capsys.readouterr()
    assert status == 2, printed
    return printed.err


def test_what_cannot_be_checked_is_refused_before_any_work(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = str(copy)
    assert "did you mean 'vllm'" in refused(capsys, out, "--engine", "vlm")
    assert "llama.cpp loads a GGUF file, and" in refused(capsys, out, "--engine", "llama.cpp")
    assert "--python no-such-python" in refused(capsys, out, "--engine", "vllm", "--python", "no-such-python")
    assert "is not the directory of a run" in refused(
        capsys, out, "--engine", "vllm", "--run", str(tmp_path / "elsewhere")
    )
    (copy / "recipe.yaml").unlink()
    shutil.rmtree(copy.with_name("cut.run"))
    assert "name it with --original" in refused(capsys, out, "--engine", "vllm")
    if importlib.util.find_spec("vllm") is None:
        assert "has no vllm, which the engine vllm needs" in refused(
            capsys, out, "--engine", "vllm", "--original", out
        )


def test_llama_cpp_takes_the_only_gguf_file_of_a_directory(tmp_path: Path):
    (tmp_path / "model.gguf").touch()
    assert LlamaCppEngine().model_file(tmp_path) == tmp_path / "model.gguf"
    (tmp_path / "other.gguf").touch()
    with pytest.raises(InputError, match="2 GGUF files; name one"):
        LlamaCppEngine().model_file(tmp_path)


def test_an_engine_of_a_plugin_is_found_by_name(tmp_path: Path):
    class Plugin:
        @hookimpl
        def shapcut_register_engines(self, register: Any) -> None:
            register("mine", lambda: StandIn(tmp_path))

    host = build_host(extra=[Plugin()])
    assert isinstance(host.engines.create("mine"), StandIn)


def test_a_reference_that_transformers_cannot_give_is_an_error(
    pruned: Path, tiny_llama_directory: Path, tmp_path: Path
):
    class Refusing(Reference):
        def ask(self, engine: Engine, request: Request, timeout: float) -> Answer | Refusal:
            return Refusal(refusal="ValueError: no")

    with pytest.raises(ShapcutError, match=r"transformers cannot run .*cut to compare with: ValueError: no"):
        check(StandIn(tmp_path), pruned, tiny_llama_directory, Refusing())


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason=f"needs pip install xllamacpp, or {LLAMA_CPP}")
def test_llama_cpp_runs_a_cut_gguf_file(tiny_gguf_file: Path, tmp_path: Path):
    host = build_host()
    out = tmp_path / "cut.gguf"
    prune(make_recipe({"model": str(tiny_gguf_file), "remove": 2, **SIZES}), out, host)
    found = real_check("llama.cpp", os.environ.get(LLAMA_CPP), out, tiny_gguf_file, host)
    assert found.verdict.good, found.sentence


@pytest.mark.skipif(VLLM not in os.environ, reason=f"needs {VLLM}, the Python of an environment with vLLM")
def test_vllm_says_of_the_cut_what_it_says_of_the_original(pruned: Path, tiny_llama_directory: Path):
    found = real_check("vllm", os.environ[VLLM], pruned, tiny_llama_directory, build_host())
    assert found.verdict in {Verdict.EQUAL, Verdict.UNSUPPORTED}, found.sentence


def real_check(name: str, python: str | None, cut: Path, original: Path, host: Host) -> ServingCheck:
    question = ServingQuestion(
        result=cut.name,
        name=name,
        engine=host.engines.create(name),
        interpreter=Interpreter(python),
        repeats=1,
    )
    return check_serving(question, find_model(host, str(cut)), find_model(host, str(original)), Silent())
