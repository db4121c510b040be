"""Experts removed by the game and by published statistics: held-out perplexity and tokens processed.

    python benchmarks/players/experts.py --runs RUNS             # both mixtures; goes on where it stopped
    python benchmarks/players/experts.py --runs RUNS --models mixtral --seeds 0
    python benchmarks/players/experts.py --runs RUNS --methods ours   # other methods' sets stay as recorded

``ours`` is the estimator and the selector that `shapcut prune --granularity expert` takes by default, with
`OURS` coalitions, or fewer where that and its finals would take more than half of greedy's tokens. A seed
decides the windows of calibration text and the randomness of a method. All methods measure on the same
windows; the statistics are also taken of the windows that the finals read (``ean, all text``). Every chosen
set is judged on the same held-out windows, so that two sets are compared window by window. Sets with unequal
counts are values only: no plain checkpoint has them.
"""

import argparse
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shapcut.baselines.greedy import greedy_evaluations
from shapcut.comparison.compare import compare
from shapcut.comparison.contestants import parse_methods
from shapcut.game.coalitions import without
from shapcut.game.groups import Groups
from shapcut.host.host import build_host
from shapcut.pipeline.session import Session, prepare
from shapcut.recipe.recipe import make_recipe
from shapcut.support.files import write_json_atomically

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "players_experts.json"
MODELS = ("mixtral", "qwen3moe")
RATIOS = (0.125, 0.25, 0.375, 0.5)
STATISTICS = ("frequency", "ean", "reap")
METHODS = ("ours", *STATISTICS, "greedy")
OURS = 150
WINDOWS, LENGTH, FINAL_WINDOWS, HELD_OUT = 16, 128, 64, 48
FINALS_COST = 20
"""What finals on 64 windows take, in coalitions of 16: 16 sets on 8 windows, 8 on 8, 4 on 16, 2 on 32."""
RANDOM_DRAWS = 4


@dataclass(frozen=True)
class Subject:
    """A mixture; the nats of each held-out window without some of its experts are kept in a file."""

    name: str
    runs: Path
    known: dict[str, list[float]] = field(default_factory=dict)

    @cached_property
    def options(self) -> dict[str, Any]:
        """What all recipes share."""
        return {
            "model": str(ROOT / "zoo" / "models" / self.name),
            "granularity": "expert",
            "samples": WINDOWS,
            "sequence_length": LENGTH,
            "finalist_samples": FINAL_WINDOWS,
        }

    @cached_property
    def session(self) -> Session:
        """The loaded model and its texts."""
        return prepare(
            make_recipe({**self.options, "held_out_samples": HELD_OUT}), build_host(), target=False
        )

    @cached_property
    def groups(self) -> Groups:
        """The experts of each layer."""
        return Groups.of(self.session.game.players)

    def sizes(self) -> list[int]:
        """Numbers of experts to remove, equally many of each layer."""
        return [len(self.groups) * round(ratio * self.groups.sizes[0]) for ratio in RATIOS]

    def greedy(self, n_remove: int) -> int:
        """The coalitions of a greedy search."""
        return greedy_evaluations(self.session.game.n_players, n_remove, len(self.groups))

    def budget(self, n_remove: int) -> int:
        """The coalitions of ours, beside its finals."""
        return min(OURS, self.greedy(n_remove) // 2 - FINALS_COST)

    def nats(self, removed: Sequence[int]) -> NDArray[np.float64]:
        """The loss of each held-out window."""
        place, key = self.runs / f"{self.name}.held-out.json", " ".join(map(str, sorted(removed)))
        if not self.known and place.exists():
            self.known.update(json.loads(place.read_text()))
        if key not in self.known:
            game = self.session.game
            judge = game.on(self.session.held_out.input_ids, dtype=game.own_dtype, fuse=False)
            (means,) = judge.evaluator.window_means(without(game.n_players, [removed]))
            self.known[key] = [round(float(loss), 6) for loss in means]
            write_json_atomically(place, self.known)
        return np.array(self.known[key])


def chosen(who: Subject, seed: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    """The sets that methods choose on the windows of a seed."""
    rows = []
    for n_remove in who.sizes():
        names = [f"surrogate+search@{who.budget(n_remove)}" if name == "ours" else name for name in methods]
        comparison = compare(
            make_recipe({**who.options, "held_out_samples": 1}),
            parse_methods(",".join(names)),
            [make_recipe({**who.options, "remove": n_remove})],
            seeds=[seed],
            run_directory=who.runs / f"{who.name}.{seed}",
            host=build_host(),
        )
        for name, row in zip(methods, comparison.rows, strict=True):
            assert not row.failure, row.failure
            rows.append({**_row(who, seed, n_remove, name, row.removed), "tokens": row.tokens})
            rows[-1]["evaluations"] = row.evaluations
            print(rows[-1] | {"removed": "..."}, math.exp(who.nats(row.removed).mean()), flush=True)
    return rows


def _row(who: Subject, seed: int, n_remove: int, method: str, removed: Sequence[int]) -> dict[str, Any]:
    each = n_remove // len(who.groups)
    return {
        "model": who.name,
        "removed_each": [each, who.groups.sizes[0]],
        "n_remove": n_remove,
        "seed": seed,
        "method": method,
        "removed": sorted(removed),
        "tokens": 0,
    }


def from_statistics(who: Subject, seed: int) -> list[dict[str, Any]]:
    """Sets by statistics: of the windows that finals read too, and with unequal counts."""
    text = type(who.session.text)(who.session.text.source, who.session.text.tokenizer, LENGTH, seed)
    game, rows = who.session.game, []
    first, further = text.calibration(WINDOWS).input_ids, text.finals(FINAL_WINDOWS).input_ids
    of_first = game.adapter.expert_statistics(game.model, first)
    of_all = game.adapter.expert_statistics(game.model, torch.cat([first, further]))
    tokens = (first.numel(), first.numel() + further.numel())
    for n_remove in who.sizes():
        for name in STATISTICS:
            by_layer = who.groups.first(np.argsort(of_all[name], kind="stable").tolist(), n_remove)
            rows.append({**_row(who, seed, n_remove, f"{name}, all text", by_layer), "tokens": tokens[1]})
            over_all = np.argsort(of_first[name], kind="stable")[:n_remove].tolist()
            rows.append({**_row(who, seed, n_remove, f"{name}, unequal", over_all), "tokens": tokens[0]})
    return rows


def at_random(who: Subject) -> list[dict[str, Any]]:
    """Random sets of equal counts."""
    return [
        _row(
            who, draw, n_remove, "random", who.groups.draw(n_remove, np.random.default_rng([draw, n_remove]))
        )
        for n_remove in who.sizes()
        for draw in range(RANDOM_DRAWS)
    ]


def recorded(who: Subject, methods: Sequence[str]) -> list[dict[str, Any]]:
    """The result's rows of all other methods."""
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["model"] == who.name and row["method"] not in methods]


def judged(who: Subject, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with perplexity, and with the paired difference to ours in nats and its standard error."""
    ours = {(row["n_remove"], row["seed"]): row["removed"] for row in rows if row["method"] == "ours"}
    for row in rows:
        nats = who.nats(row["removed"])
        row["perplexity"] = round(math.exp(nats.mean()), 3)
        if (rival := ours.get((row["n_remove"], row["seed"]))) is not None and row["method"] != "random":
            difference = nats - who.nats(rival)
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            row["nats_above_ours"] = [round(float(difference.mean()), 5), round(float(error), 5)]
    return rows


def main() -> None:
    """Measure what the runs lack, then write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("experts-runs"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    given.runs.mkdir(exist_ok=True)
    subjects = [Subject(name, given.runs) for name in given.models]
    found: dict[str, list[dict[str, Any]]] = {who.name: [] for who in subjects}
    every = tuple(given.methods) == METHODS
    for seed in given.seeds:
        for who in subjects:
            found[who.name] += chosen(who, seed, given.methods)
            found[who.name] += from_statistics(who, seed) if every else []
    for who in subjects:
        found[who.name] += at_random(who) if every else recorded(who, given.methods)
    content = {
        "command": "python benchmarks/players/experts.py",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "calibration": {"windows": WINDOWS, "length": LENGTH, "further_windows": FINAL_WINDOWS},
        "held_out_windows": HELD_OUT,
        "whole": {who.name: round(math.exp(who.nats(()).mean()), 3) for who in subjects},
        "greedy_tokens": {
            f"{who.name} {size}": who.greedy(size) * WINDOWS * LENGTH
            for who in subjects
            for size in who.sizes()
        },
        "rows": [row for who in subjects for row in judged(who, found[who.name])],
    }
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
