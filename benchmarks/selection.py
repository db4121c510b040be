"""Selection methods at one budget: held-out perplexity, tokens processed and seconds of each.

    python benchmarks/selection.py --text wikitext2/valid.txt --held-out wikitext2/test.txt

SmolLM2-135M chooses on windows of ``--text`` and is judged on the first 80 windows of 256 tokens of
``--held-out``, or else on 80 of 128 from the last quarter of ``--text``, in float32 and without BOS. The
models of the zoo choose on and are judged on the two parts of the built-in text; more than 300 masks are for
SmolLM2 alone. Started again it goes on where it stopped: evaluations and rows are kept in ``--runs``.
"""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shapcut.comparison.compare import HeldOutText, compare
from shapcut.comparison.contestants import parse_methods
from shapcut.host.host import build_host
from shapcut.recipe.methods import METHODS
from shapcut.recipe.recipe import make_recipe
from shapcut.support.progress import ConsoleReporter

ROOT = Path(__file__).parent
RESULT = ROOT / "results" / "selection.json"
SMOLLM2 = "demo:smollm2-135m"
ONE_SEED = ("paper@1000", "paper@3000")  # they show how the method converges; the first seed has to do
METHOD_NAMES = (*(name for name in METHODS if name != "paper"), "paper@300", *ONE_SEED)


@dataclass(frozen=True, slots=True)
class Task:
    """One model's part of the benchmark.

    Attributes:
        name: of the model.
        model: what is loaded.
        removals: numbers of players to remove.
        seeds: of calibration windows and methods.
        budget: coalitions for methods that take as many as they are given.
    """

    name: str
    model: str
    removals: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: int


def tasks() -> list[Task]:
    """All models."""
    zoo = sorted(path.name for path in (ROOT / "zoo" / "models").iterdir())
    small = [
        Task(f"zoo/{name}", str(ROOT / "zoo" / "models" / name), (2, 4, 6), (0, 1, 2), 150) for name in zoo
    ]
    return [Task("SmolLM2-135M-Instruct", SMOLLM2, (3, 6, 10), (0, 1, 2), 300), *small]


def run_task(task: Task, given: argparse.Namespace) -> dict[str, Any]:
    """The comparison of one model."""
    large = task.model == SMOLLM2
    options = {
        "model": task.model,
        "budget": task.budget,
        "samples": 16,
        "sequence_length": 128,
        "held_out_samples": 80,
        "calibration": given.text if large else "builtin",
    }
    recipe = make_recipe(options)
    seeds: Sequence[int] = given.seeds or task.seeds
    names: Sequence[str] = given.methods or [name for name in METHOD_NAMES if large or name not in ONE_SEED]
    once = [name for name in names if name in given.once]
    often = [name for name in names if name not in once]
    content: dict[str, Any] = {"rows": []}
    for methods, some in ((often, seeds), (once, seeds[:1])):
        if methods:
            comparison = compare(
                recipe,
                parse_methods(",".join(methods)),
                [make_recipe({**options, "remove": number}) for number in given.remove or task.removals],
                seeds=some,
                run_directory=given.runs / task.name.replace("/", "-"),
                host=build_host(),
                held_out=HeldOutText(given.held_out, 80, 256) if large and given.held_out else None,
                reporter=ConsoleReporter(),
            )
            found = comparison.to_json()
            content = {**found, "rows": [*content["rows"], *found["rows"]]}
    content["text"] = {key: _short(value) for key, value in content["text"].items()}
    content["model"]["source"] = task.name
    return content


def _short(value: Any) -> Any:
    """A path by its last two parts, anything else as it is."""
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and "/" in value else value


def main() -> None:
    """Run, and write the result after every model."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--text", required=True, help="calibration text for SmolLM2, but its last quarter")
    parser.add_argument("--held-out", help="text that SmolLM2 is judged on [default: last quarter of --text]")
    parser.add_argument("--runs", type=Path, default=Path("selection-runs"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--models", nargs="+", help="only these, by name")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--remove", type=int, nargs="+", help="instead of each model's own numbers")
    parser.add_argument(
        "--once", nargs="*", default=ONE_SEED, help="methods that run for the first seed only"
    )
    parser.add_argument("--remark", default="", help="what a reader must know of this run, a sentence")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of 0 1 2")
    given = parser.parse_args()
    results = [run_task(task, given) for task in tasks() if given.models is None or task.name in given.models]
    places = {"--runs", str(given.runs), "--out", str(given.out)}  # where, not what
    places |= {"--remark", given.remark}
    words = [_short(word) for word in sys.argv[1:] if word not in places]
    content = {
        "command": f"python benchmarks/selection.py {shlex.join(words)}",
        "remark": given.remark,
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "sources": {name: method.source for name, method in METHODS.items()},
        "models": results,
    }
    given.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
