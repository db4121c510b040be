"""Accuracy on local questions in every command, and as the worth of a coalition."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from shapcut.api import load_game
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Silent

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance

from shapcut.measurement.lm_eval_models import AdapterLM, TransformersLM
from shapcut.measurement.task_utility import TaskUtility

WORDS = ["saw", "spoon", "knife", "water", "a", "the", "with", "long", "small", "use", "take", "cut"]


def phrase(rng: np.random.Generator, most: int) -> str:
    return " ".join(WORDS[place] for place in rng.integers(len(WORDS), size=rng.integers(2, most + 1)))


@pytest.fixture(scope="module")
def task_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, rng = tmp_path_factory.mktemp("task-data"), np.random.default_rng(0)
    piqa = [
        {
            "goal": phrase(rng, 5),
            "sol1": phrase(rng, 6),
            "sol2": phrase(rng, 6),
            "label": int(rng.integers(2)),
        }
        for _ in range(12)
    ]
    rows: dict[str, list[dict[str, Any]]] = {
        "piqa": piqa,
        "winogrande": [
            {
                "sentence": f"{phrase(rng, 4)} _ {phrase(rng, 4)}",
                "option1": "saw",
                "option2": "spoon",
                "answer": "2",
            }
            for _ in range(6)
        ],
        "hellaswag": [
            {"query": phrase(rng, 5), "choices": [phrase(rng, 4) for _ in range(4)], "label": 3}
            for _ in range(6)
        ],
        "lambada_openai": [{"text": phrase(rng, 8)} for _ in range(6)],
    }
    for name, asked in rows.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return directory


def nats(model: Any, tokenizer: Any, context: str, answer: str) -> float:
    before, after = tokenizer(context)["input_ids"], tokenizer(answer)["input_ids"]
    ids = [*before, *after]
    losses = functional.cross_entropy(
        model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="none"
    )
    return -float(losses[-len(after) :].sum())


def piqa(task_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task_data / "piqa.jsonl").read_text().splitlines()]


def test_padding_changes_no_likelihood(llama_adapter: Adapter, tiny_llama_model: Any, tokenizer: Any) -> None:
    rng = np.random.default_rng(1)
    pairs = [(phrase(rng, 9), " " + phrase(rng, 5)) for _ in range(21)] + [
        ("", "saw"),
        ("saw " * 100, " cut"),
    ]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs = TransformersLM(llama_adapter, tiny_llama_model, tokenizer, Silent()).loglikelihood(
        requests, disable_tqdm=True
    )
    padded = AdapterLM(llama_adapter, tiny_llama_model, tokenizer, Silent(), padded=True)
    ours = padded.loglikelihood(requests)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_two_models_are_compared_on_the_same_questions(
    task_data: Path, tiny_llama_directory: Path, tiny_llama_model: Any, tokenizer: Any, capfd: Any
) -> None:
    arguments = ["evaluate", str(tiny_llama_directory), "--against", str(tiny_llama_directory)]
    arguments += ["--held-out-samples", "2", "--repeats", "0", "--cache-lengths", "none"]
    arguments += ["--tasks", "piqa,winogrande,hellaswag,lambada_openai", "--task-data", str(task_data)]
    assert run([*arguments, "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    scores = {score["task"]: score for score in content["model"]["tasks"]}
    answers = []
    for row in piqa(task_data):
        found = [
            nats(tiny_llama_model, tokenizer, f"Question: {row['goal']}\nAnswer:", f" {row[choice]}")
            for choice in ("sol1", "sol2")
        ]
        answers.append(str(int(found.index(max(found)) == row["label"])))
    assert scores["piqa"]["answers"]["acc"] == "".join(answers)
    assert set(scores["piqa"]["metrics"]) == set(scores["hellaswag"]["metrics"]) == {"acc", "acc_norm"}
    assert set(scores["winogrande"]["metrics"]) == {"acc"}
    assert set(scores["lambada_openai"]["metrics"]) == {"acc", "perplexity"}
    assert [each["difference"] for each in content["differences"]] == [0.0] * 7
    assert run([*arguments, "--limit", "3"]) == 0
    assert "│ mean" in capfd.readouterr().out


def test_pruning_tells_accuracy_and_what_is_written(
    task_data: Path, tiny_llama_directory: Path, tmp_path: Path, capfd: Any
) -> None:
    out = tmp_path / "out"
    arguments = ["prune", str(tiny_llama_directory), "--out", str(out), "--remove", "2", "--budget", "12"]
    arguments += ["--samples", "2", "--sequence-length", "32", "--held-out-samples", "4"]
    asked = ["--tasks", "piqa,winogrande", "--task-data", str(task_data), "--limit", "5"]
    assert run([*arguments, *asked, "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert [each["questions"] for each in content["differences"]] == [5, 5, 5, 10]
    writing = content["writing"]
    assert len(writing["continuations"]) == 3
    assert writing["windows"] == 4
    growth = [each["pruned_nats"] - each["dense_nats"] for each in writing["worse"]]
    assert growth == sorted(growth, reverse=True)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "## Accuracy" in card
    assert "## What it writes" in card
    report = (tmp_path / "out.run" / "report.html").read_text(encoding="utf-8")
    assert 'id="accuracy"' in report
    assert "Greedy continuations of held-out text" in report


def test_methods_are_compared_by_accuracy(
    task_data: Path, tiny_llama_directory: Path, tmp_path: Path, capfd: Any
) -> None:
    arguments = ["compare", str(tiny_llama_directory), "--methods", "random,last-n", "--remove", "2"]
    arguments += [
        "--samples",
        "2",
        "--sequence-length",
        "32",
        "--held-out-samples",
        "2",
        "--run",
        str(tmp_path / "r"),
    ]
    asked = ["--tasks", "piqa,winogrande", "--task-data", str(task_data)]
    assert run([*arguments, *asked, "--json"]) == 0
    first = json.loads(capfd.readouterr().out)
    assert [len(row["differences"]) for row in first["rows"]] == [4, 4]
    assert first["tasks"]["question"]["names"] == ["piqa", "winogrande"]
    assert 'id="accuracy"' in (tmp_path / "r" / "comparison.html").read_text(encoding="utf-8")
    assert run(arguments) == 0
    assert "points" not in capfd.readouterr().out  # rows with tasks are not those without
    assert run([*arguments, *asked]) == 0
    assert "points" in capfd.readouterr().out
    lost = json.loads((tmp_path / "r" / "comparison.json").read_text())
    assert lost["rows"] == first["rows"]


def test_a_coalition_is_worth_what_it_answers(
    task_data: Path, tiny_llama_directory: Path, tiny_llama_model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    def game(**options: Any) -> Any:
        spec = ",".join(f"{key}={value}" for key, value in options.items())
        text = {"samples": 2, "sequence_length": 16}
        return load_game(str(tiny_llama_directory), utility=f"tasks:piqa,data={task_data},{spec}", **text)

    everyone = np.ones((1, 6), dtype=np.bool_)
    margins = []
    for row in piqa(task_data)[-4:]:
        right, wrong = (
            nats(tiny_llama_model, tokenizer, f"Question: {row['goal']}\nAnswer:", f" {choice}") / len(choice)
            for choice in (row[f"sol{row['label'] + 1}"], row[f"sol{2 - row['label']}"])
        )
        margins.append(right - wrong)
    margin = game(limit=4)
    assert margin.values(everyone)[0] == pytest.approx(np.mean(margins), abs=1e-4)
    accuracy = game(limit=4, measure="accuracy")
    assert accuracy.values(everyone)[0] == np.mean([margin > 0 for margin in margins])
    assert margin.values(~np.eye(6, dtype=np.bool_)[:1])[0] != margin.values(everyone)[0]
    assert margin.fingerprint()["utility"] != game(limit=5).fingerprint()["utility"]
    with pytest.raises(InputError, match="local"):
        margin.spec()


def test_a_model_is_pruned_for_a_task(
    task_data: Path, tiny_llama_directory: Path, tmp_path: Path, capfd: Any
) -> None:
    arguments = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    arguments += ["--samples", "2", "--sequence-length", "32", "--held-out-samples", "2", "--budget", "20"]
    utility = ["--utility", f"tasks:piqa+lambada_openai,limit=4,data={task_data}"]
    assert run([*arguments, *utility, "--finalist-samples", "4"]) == BAD_INPUT
    assert "finalist samples are text" in capfd.readouterr().err
    assert run([*arguments, *utility, "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)["plan"]
    assert plan["utility"] == "tasks:piqa+lambada_openai,limit=4,measure=margin"
    assert math.isfinite(plan["measured_value"])
    wrong = ["--utility", f"tasks:piqa,limit=0,data={task_data}"]
    assert run([*arguments[:3], str(tmp_path / "other"), *arguments[4:], *wrong]) == BAD_INPUT
    assert "at least one question" in capfd.readouterr().err


def test_a_task_that_is_written_has_no_worth(task_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapcut.measurement.task_utility._BY_LIKELIHOOD", {"loglikelihood"})
    with pytest.raises(InputError, match="piqa is not answered by likelihood"):
        TaskUtility(("piqa",), data=str(task_data))
