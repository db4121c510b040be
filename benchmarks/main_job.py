"""The main job against step-by-step greedy search on SmolLM2-135M, on text that no choice has seen.

    python benchmarks/main_job.py --text wikitext2/valid.txt --seeds 0

Each method chooses on the same calibration windows; perplexities are of the last quarter of the text, in
float32.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shapcut import builtin
from shapcut.arithmetic import has_fast_bfloat16
from shapcut.coalitions import without
from shapcut.game import BudgetedGame, Game
from shapcut.host import build_host
from shapcut.measure import perplexity
from shapcut.pipeline import Scoring
from shapcut.progress import ConsoleReporter
from shapcut.recipe import make_recipe
from shapcut.run import open_run
from shapcut.session import Session, prepare

MODEL = "demo:smollm2-135m"
RESULT = Path(__file__).parent / "results" / "main_job.json"


def greedy(game: Game, n_remove: int) -> tuple[list[int], int]:
    """SLEB's selection: remove the player whose loss costs least, measure the rest again, and so on."""
    counted = BudgetedGame(game, budget=n_remove * game.n_players)
    removed: list[int] = []
    for _ in range(n_remove):
        candidates = [player for player in range(game.n_players) if player not in removed]
        values = counted.values(without(game.n_players, [[*removed, player] for player in candidates]))
        removed.append(candidates[int(np.argmax(values))])
    return sorted(removed), counted.spent


def held_out_perplexity(session: Session, removed: list[int]) -> float:
    """Perplexity of the model without these players, float32."""
    model = session.game.model
    kept = [player for player in range(session.game.n_players) if player not in removed]
    with session.adapter.bypass(model, kept):
        return perplexity(session.adapter, model, session.held_out.input_ids).perplexity


def compare(text: str, n_remove: int, budget: int, seed: int, windows: int) -> list[dict[str, Any]]:
    """One row a method."""
    host, reporter = build_host(core=[builtin]), ConsoleReporter()
    recipe = make_recipe(
        {
            "model": MODEL,
            "remove": n_remove,
            "budget": budget,
            "calibration": text,
            "seed": seed,
            "finalist_samples": 64,
            "held_out_samples": windows,
        }
    )
    session = prepare(recipe, host, target=True)
    rows = [{"method": "dense", "removed": [], "perplexity": held_out_perplexity(session, [])}]
    with tempfile.TemporaryDirectory() as directory, open_run(Path(directory)) as run:
        with Scoring(session, run, reporter) as scoring:
            begin = time.monotonic()
            contributions = scoring.estimate()
            plan = scoring.choose(contributions)
            seconds = time.monotonic() - begin
        manifest = json.loads(run.manifest.read_text())
    measured = manifest["phases"]["select"]["evaluations_measured"]
    tokens = {"calibration": session.calibration.n_tokens, "finals": session.finals.input_ids.numel()}
    fidelity = contributions.fidelity
    rows.append(
        {
            "method": "shapcut",
            "removed": list(plan.removed),
            "perplexity": held_out_perplexity(session, list(plan.removed)),
            "evaluations": measured,
            "tokens": sum(count * tokens[name] for name, count in measured.items()),
            "seconds": round(seconds, 1),
            "spearman_held_out_better_half": fidelity.spearman_good if fidelity else None,
        }
    )
    begin = time.monotonic()
    chosen, evaluations = greedy(session.game, n_remove)
    rows.append(
        {
            "method": "greedy (SLEB)",
            "removed": chosen,
            "perplexity": held_out_perplexity(session, chosen),
            "evaluations": {"calibration": evaluations},
            "tokens": evaluations * session.calibration.n_tokens,
            "seconds": round(time.monotonic() - begin, 1),
        }
    )
    known = [4, 5, 13, 14, 17, 26]
    if n_remove == len(known):
        rows.append(
            {"method": "fixed set", "removed": known, "perplexity": held_out_perplexity(session, known)}
        )
    return [{"seed": seed, **row} for row in rows]


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--remove", type=int, default=6)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--windows", type=int, default=400)
    given = parser.parse_args()
    rows = [
        row
        for seed in given.seeds
        for row in compare(given.text, given.remove, given.budget, seed, given.windows)
    ]
    text = "/".join(Path(given.text).parts[-2:])
    fast = "yes" if has_fast_bfloat16(torch.device("cpu")) else "no"
    content = {
        "model": "SmolLM2-135M-Instruct, 30 blocks, Q4_1 weights dequantized to float32",
        "text": f"{text}: calibration 16 x 128 tokens (finals 64 x 128) of its first three quarters, "
        f"held out {given.windows} x 128 tokens of the last; no BOS",
        "n_remove": given.remove,
        "budget": given.budget,
        "command": f"python benchmarks/main_job.py {shlex.join(sys.argv[1:]).replace(given.text, text)}",
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}, bfloat16 in hardware: {fast}",
        "torch": torch.__version__,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
