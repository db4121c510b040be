"""Tasks of lm-evaluation-harness: a local one, offline, against direct computation."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.measurement.lm_eval_tasks import Harness, TaskQuestion
from shapcut.measurement.notes import Notes
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Silent

QUESTIONS = [
    {"question": "The fox is", "choices": [" quick", " slow", " a dog"], "answer": 0},
    {"question": "The dog is", "choices": [" lazy", " brown and quick", " red"], "answer": 2},
    {"question": "One and one", "choices": [" is two", " is", " three"], "answer": 1},
    {"question": "Water", "choices": [" burns", " flows", " x"], "answer": 1},
]
CHOICE = """\
task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
ROLLING = """\
task: prose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: byte_perplexity}}]
"""
GENERATION = """\
task: copy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{question}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 5, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


pytest.importorskip("lm_eval")
datasets = pytest.importorskip("datasets")
from lm_eval.api.instance import Instance  # noqa: E402 - only where it is installed

from shapcut.measurement.lm_eval_models import AdapterLM, TransformersLM, harness_model  # noqa: E402 - as above


@pytest.fixture(scope="module", autouse=True)
def _harness_offline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture
def task_path(tmp_path: Path) -> Path:
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    directory = tmp_path / "tasks"
    directory.mkdir()
    for name, text in (("quiz", CHOICE), ("prose", ROLLING), ("copy", GENERATION)):
        (directory / f"{name}.yaml").write_text(text.format(data=data))
    return directory


def nats(model: Any, ids: list[int], asked: int) -> float:
    """Log-likelihood of the last tokens."""
    losses = functional.cross_entropy(
        model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="none"
    )
    return -float(losses[-asked:].sum())


def accuracy(model: Any, tokenizer: Any) -> float:
    right = 0
    for entry in QUESTIONS:
        context = tokenizer(entry["question"])["input_ids"]
        whole = [tokenizer(entry["question"] + choice)["input_ids"] for choice in entry["choices"]]
        found = [nats(model, ids, len(ids) - len(context)) for ids in whole]
        right += found.index(max(found)) == entry["answer"]
    return right / len(QUESTIONS)


def test_both_ways_of_asking_agree_with_direct_computation(
    llama_adapter: Adapter, tiny_llama_model: Any, tokenizer: Any
) -> None:
    pairs = [(e["question"], choice) for e in QUESTIONS for choice in e["choices"]] + [("", "abc")]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    expected = []
    for context, asked in pairs:
        before = tokenizer(context)["input_ids"] or [tokenizer.bos_token_id]
        after = tokenizer(asked)["input_ids"]
        expected.append(nats(tiny_llama_model, [*before, *after], len(after)))
    assert isinstance(harness_model(llama_adapter, tiny_llama_model, tokenizer, Silent()), TransformersLM)
    own = AdapterLM(llama_adapter, tiny_llama_model, tokenizer, Silent())
    for asked in (own, TransformersLM(llama_adapter, tiny_llama_model, tokenizer, Silent())):
        found = [likelihood for likelihood, _ in asked.loglikelihood(requests, disable_tqdm=True)]
        assert found == pytest.approx(expected, abs=1e-4)


def test_long_texts_are_read_in_windows(
    llama_adapter: Adapter, tiny_llama_model: Any, tokenizer: Any
) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 10
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    own = AdapterLM(llama_adapter, tiny_llama_model, tokenizer, Silent())
    assert own.max_length == 256
    theirs = TransformersLM(llama_adapter, tiny_llama_model, tokenizer, Silent())
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert own.loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-3)


def test_generation_stops_where_it_should(
    llama_adapter: Adapter, tiny_llama_model: Any, tokenizer: Any
) -> None:
    ids = tokenizer("The fox")["input_ids"]
    whole = llama_adapter.generate(tiny_llama_model, torch.tensor([ids]), 40, use_cache=True)[0, len(ids) :]
    end = whole.tolist().index(1) if 1 in whole else None
    text = tokenizer.decode(whole[:end])
    stop = text[3:5]
    own = AdapterLM(llama_adapter, tiny_llama_model, tokenizer, Silent())

    def generated(**options: Any) -> str:
        request = Instance("generate_until", {}, ("The fox", {"max_gen_toks": 40, **options}), 0)
        return own.generate_until([request])[0]

    assert generated(until=[]) == text
    assert generated(until=[stop]) == text[: text.index(stop)]
    with pytest.raises(InputError, match="sampled"):
        generated(do_sample=True)


def test_two_models_on_local_tasks(
    task_path: Path, tiny_llama_directory: Path, tiny_llama_model: Any, tokenizer: Any, capfd: Any
) -> None:
    arguments = ["evaluate", str(tiny_llama_directory), "--against", str(tiny_llama_directory)]
    arguments += ["--held-out-samples", "2", "--repeats", "0", "--cache-lengths", "none"]
    arguments += ["--tasks", "quiz,prose,copy", "--task-path", str(task_path)]
    assert run([*arguments, "--json"]) == 0
    out, _ = capfd.readouterr()
    content = json.loads(out)
    scores = {score["task"]: score for score in content["model"]["tasks"]}
    assert scores["quiz"]["metrics"]["acc"] == accuracy(tiny_llama_model, tokenizer)
    assert (scores["quiz"]["samples"], scores["quiz"]["shots"]) == (4, 0)
    assert scores["quiz"]["errors"]["acc"] > 0
    texts = [(entry["question"], tokenizer(entry["question"])["input_ids"]) for entry in QUESTIONS]
    total = sum(nats(tiny_llama_model, [0, *ids], len(ids)) for _, ids in texts)
    expected = torch.tensor(-total / sum(len(text) for text, _ in texts)).exp()
    assert scores["prose"]["metrics"]["byte_perplexity"] == pytest.approx(float(expected), rel=1e-4)
    assert content["against"]["tasks"] == content["model"]["tasks"]
    assert run([*arguments, "--limit", "2", "--num-fewshot", "1"]) == 0
    assert "byte_perplexity" in capfd.readouterr().out


def test_shots_and_limit_are_as_wanted(
    task_path: Path, llama_adapter: Adapter, tiny_llama_model: Any, tokenizer: Any
) -> None:
    asked = TaskQuestion(("quiz",), task_path, limit=3, shots=2)
    notes = Notes()
    harness = Harness.prepared(asked)
    (score,) = harness.scores(llama_adapter, tiny_llama_model, tokenizer, Silent(), notes)
    assert (score.samples, score.shots, notes.lines) == (3, 2, [])
    with (task_path / "quiz.yaml").open("a") as file:
        file.write("num_fewshot: 0\n")
    harness = Harness.prepared(asked)
    (score,) = harness.scores(llama_adapter, tiny_llama_model, tokenizer, Silent(), notes)
    assert score.shots == 0
    assert notes.lines == ["quiz is asked without solved examples: its num_fewshot is fixed at 0"]


def test_a_task_that_a_model_cannot_answer_becomes_a_note(
    task_path: Path,
    llama_adapter: Adapter,
    tiny_llama_model: Any,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no text from this model")

    monkeypatch.setattr(TransformersLM, "generate_until", fail)
    harness = Harness.prepared(TaskQuestion(("copy", "quiz"), task_path))
    notes = Notes()
    (score,) = harness.scores(llama_adapter, tiny_llama_model, tokenizer, Silent(), notes)
    assert score.task == "quiz"
    assert notes.lines == ["no score on copy: no text from this model"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["evaluate", "no/such-model-anywhere", *arguments]) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_bad_tasks_are_refused_before_a_model_is_looked_for(
    task_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ["--task-path", str(task_path)]
    assert "--limit is for tasks" in refused(["--limit", "3"], capsys)
    assert "is not a directory" in refused(["--tasks", "quiz", "--task-path", "nowhere"], capsys)
    assert "names no task" in refused(["--tasks", ","], capsys)
    (task_path.parent / "questions.jsonl").unlink()
    assert "cannot read the tasks quiz" in refused(["--tasks", "quiz", *path], capsys)
    monkeypatch.setattr("shapcut.measurement.lm_eval_tasks._INDICES", (False,))
    assert "unknown task 'quis'; did you mean 'quiz'?" in refused(["--tasks", "quis", *path], capsys)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else found(name))
    assert "pip install 'shapcut[eval]'" in refused(["--tasks", "quiz", *path], capsys)
    assert "lm_eval" in sys.modules  # or the refusals above were of something else
