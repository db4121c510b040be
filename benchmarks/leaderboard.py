"""Methods on the zoo and SmolLM2, plain and compensated: perplexity on several texts, accuracy, cost.

    python benchmarks/leaderboard.py --runs DIR
    python benchmarks/leaderboard.py --runs DIR --models smollm2-135m --judge-on wiki.txt --task-data DIR

Methods choose on the built-in texts; models are judged on held-out quarters, and on every file of
``--judge-on``. Ratios of perplexities to the whole model's have paired intervals over windows, differences of
accuracies paired ones over questions. ``--runs`` keeps comparisons; rows that the result has are not measured
again.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import shapcut
from after_the_cut import step_context
from shapcut.comparison.row import ResultRow
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host, build_host
from shapcut.host.open_model import OpenModel, find_model, open_model
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.measurement.lm_eval_tasks import Harness
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.paired_accuracy import paired_differences
from shapcut.measurement.record import ModelMeasurement, changes
from shapcut.pipeline.windows import RunText
from shapcut.support.files import write_json_atomically

HERE = Path(__file__).parent
RESULT = HERE / "results" / "leaderboard.json"
ZOO = ("llama", "mamba", "mamba2", "rwkv4", "rwkv7", "qwen3moe", "mixtral")
REAL = "smollm2-135m"
METHODS = "ours,greedy,block-influence,paper"
RATIOS = (0.2, 0.33)
CALIBRATION = "builtin+general"
STEPS = ((), ("compensate",))
LENGTH, WINDOWS = 128, 64


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how it is judged.

    Attributes:
        name: of the model.
        source: where it is.
        calibration: the text that methods choose on and that steps are fitted on.
        judge_on: further texts.
        harness: the tasks to ask, or None.
    """

    name: str
    source: str
    calibration: str
    judge_on: tuple[str, ...]
    harness: Harness | None

    def measured(self, opened: OpenModel, model: nn.Module) -> ModelMeasurement:
        """Perplexity and accuracy of a model."""
        question = TextQuestion(
            self.calibration, window=LENGTH, windows=WINDOWS, judge_on=self.judge_on or None
        )
        held_out, sliding = question.read(opened.tokenizer)
        return measure(
            opened.adapter,
            model,
            held_out,
            sliding=sliding,
            others=question.others(opened.tokenizer),
            speed=SpeedQuestion(repeats=0),
            tasks=self.harness,
            tokenizer=opened.tokenizer,
        )


def chosen(subject: Subject, runs: Path, methods: str, n_blocks: int) -> tuple[ResultRow, ...]:
    """What each method removes, and its cost."""
    found = shapcut.compare(
        subject.source,
        methods=methods,
        remove=[round(ratio * n_blocks) for ratio in RATIOS],
        run=runs / subject.name,
        calibration=subject.calibration,
        judge_on=["none"],
        progress=True,
    )
    return found.rows


def treated(
    host: Host, opened: OpenModel, calibration: str, removed: Sequence[int], steps: Sequence[str]
) -> tuple[nn.Module, float]:
    """The model without blocks after steps, and the seconds that the steps took."""
    n_players = len(opened.adapter.players(opened.model))
    plan = RemovalPlan.removing(removed, n_players)
    model = opened.adapter.remove(copy.deepcopy(opened.model), plan.removed)
    text = RunText(calibration, opened.tokenizer, LENGTH, 0)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        for step in steps:
            context = step_context(
                opened.adapter,
                plan,
                opened.model,
                opened.tokenizer,
                Path(directory),
                calibration=text.whole(LENGTH)[:16],
                windows=text.whole,
                texts=text.by_source,
            )
            made = host.postprocessors.create(step).run(model, context)
            assert isinstance(made, nn.Module)
            model = made
    return model, time.monotonic() - begin


def figures(dense: ModelMeasurement, cut: ModelMeasurement) -> dict[str, Any]:
    """What is shown of a measured model beside the whole one."""
    ratios = changes(dense, cut)
    names = {"perplexity.perplexity": cut.held_out_source}
    names |= {each.figure: each.source for each in cut.other_texts}
    content: dict[str, Any] = {
        "perplexities": {
            Path(source).name: {
                "perplexity": perplexity,
                "ratio": None if path not in ratios else _ends(ratios[path]),
            }
            for (path, source), perplexity in zip(
                names.items(),
                [cut.perplexity.perplexity, *(each.perplexity.perplexity for each in cut.other_texts)],
                strict=True,
            )
        }
    }
    if dense.tasks is not None and cut.tasks is not None:
        mean = paired_differences(dense.tasks, cut.tasks)[-1]
        content["accuracy"] = {
            "tasks": len(cut.tasks),
            "questions": sum(score.samples for score in cut.tasks),
            **{name: getattr(mean, name) for name in ("before", "after", "difference", "low", "high")},
        }
    return content


def _ends(ratio: Any) -> list[float | None]:
    interval = ratio.interval
    return [ratio.value, *((None, None) if interval is None else (interval.low, interval.high))]


def rows_of(
    subject: Subject, host: Host, runs: Path, methods: str, known: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of a model that are not known yet; a set that two methods choose is measured once."""
    opened = open_model(host, find_model(host, subject.source))
    n_blocks = len(opened.adapter.players(opened.model))
    rows = chosen(subject, runs, methods, n_blocks)
    dense: ModelMeasurement | None = None
    shown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in [None, *rows]:
        for steps in STEPS if row is not None else ((),):
            key = {
                "model": subject.name,
                "method": "whole" if row is None else row.method,
                "removed": [] if row is None else sorted(row.removed),
                "after": " + ".join(steps) or "none",
                "judged": [Path(name).name for name in subject.judge_on],
                "questions": None if subject.harness is None else subject.harness.identity,
            }
            if json.dumps(key) in known or (row is not None and row.failure):
                continue
            dense = dense or subject.measured(opened, opened.model)
            of = (tuple(key["removed"]), steps)
            if of not in shown:
                removed = () if row is None else row.removed
                model, seconds = (
                    treated(host, opened, subject.calibration, removed, steps)
                    if removed
                    else (opened.model, 0.0)
                )
                measured = subject.measured(opened, model) if removed else dense
                shown[of] = {**figures(dense, measured), "step seconds": round(seconds, 1)}
            cost = {} if row is None else {"tokens": row.tokens, "seconds": round(row.seconds, 1)}
            yield {**key, "blocks": n_blocks, **cost, **shown[of]}


def main() -> None:
    """Measure what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="directory for the comparisons")
    parser.add_argument("--models", nargs="+", default=[*ZOO, REAL], help="of the zoo, demo:, or GGUF files")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--judge-on", nargs="+", default=[], help="further texts for models not of the zoo")
    parser.add_argument("--task-data", help="directory with questions, for models not of the zoo")
    parser.add_argument("--limit", type=int, help="questions of each task at most")
    given = parser.parse_args()
    host = build_host()
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    content |= {
        "command": "python benchmarks/leaderboard.py",
        "ratios": RATIOS,
        "calibration": CALIBRATION,
        "windows": WINDOWS,
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    names = ("model", "method", "removed", "after", "judged", "questions")
    for name in given.models:
        zoo = name in ZOO
        tasks = (
            Harness.asked("zero-shot", data=given.task_data, limit=given.limit) if given.task_data else None
        )
        subject = Subject(
            Path(name).stem if name.endswith(".gguf") else name,
            str(HERE / "zoo" / "models" / name) if zoo else f"demo:{name}" if name == REAL else name,
            "builtin" if zoo else CALIBRATION,
            () if zoo else tuple(given.judge_on),
            None if zoo else tasks,
        )
        known = {json.dumps({key: row[key] for key in names}): row for row in content["rows"]}
        for row in rows_of(subject, host, given.runs, given.methods, known):
            print(row, flush=True)
            content["rows"].append(row)
            write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
