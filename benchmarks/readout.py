"""How far losses over a sampled vocabulary are from those over the whole one, for the sets a search compares.

    python benchmarks/readout.py --text FILE MODEL [MODEL ...]      a few minutes a model

For each model: guided draws that lack a fifth of the blocks, valued both ways; the error is that of the
difference to the whole model, which is exact in both.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from shapcut.api import load_game
from shapcut.estimators.sampling import GuidedSampler
from shapcut.game.coalitions import without
from shapcut.support.files import write_json_atomically
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.readout import make_readout
from speed import environment

RESULT = Path(__file__).parent / "results" / "readout.json"
SAMPLES, LENGTH, SEED, SETS = 4, 128, 0, 24


def of_model(name: str, text: str) -> dict[str, Any]:
    """Errors and times of one model."""
    whole = load_game(
        name, calibration=text, samples=SAMPLES, sequence_length=LENGTH, seed=SEED, dtype="float32"
    )
    part = ModelGame(whole.model, whole.adapter, whole.input_ids, dtype="float32", sampled=True)
    n = whole.n_players
    singles = without(n, [(), *([player] for player in range(n))])
    known = part.values(singles)
    sampler = GuidedSampler(known[0] - known[1:], n // 5)
    drawn = sampler.sample(whole.players, 4 * SETS, np.random.default_rng(SEED))
    drawn = drawn[(~drawn).sum(axis=1) == n // 5][:SETS]
    exact, found = -whole.values(drawn), -part.values(drawn)
    errors, best = np.abs(found - exact), np.argsort(exact)[: len(drawn) // 4]
    return {
        "model": Path(name.rpartition(":")[2]).name,
        "blocks": n,
        "vocabulary": int(whole.model.get_output_embeddings().weight.shape[0]),
        "sets": len(drawn),
        "losses": [float(exact.min()), float(exact.max())],
        "largest error": float(errors.max()),
        "largest error among the best": float(errors[best].max()),
        "Spearman": float(spearmanr(found, exact).statistic),
        "times faster": seconds(whole, sampled=False) / seconds(whole, sampled=True),
    }


def seconds(game: ModelGame, *, sampled: bool) -> float:
    """Of reading out one state, the least of five calls."""
    stack, taken = game.adapter.stack(game.model), []
    if stack is None:
        raise TypeError("the model has no layer stack")
    with torch.inference_mode():
        state = stack.prelude(game.input_ids)
        readout = make_readout("nll", stack, game.input_ids, sampled=sampled)
        readout.take_full(state)
        for _ in range(5):
            began = time.perf_counter()
            readout.window_means([state])
            taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    """Measure the models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", required=True)
    given = parser.parse_args()
    rows = [of_model(name, given.text) for name in given.models]
    arguments = [Path(word).name if Path(word).exists() else word for word in sys.argv[1:]]
    content = {
        "command": shlex.join(["python", "benchmarks/readout.py", *arguments]),
        "text": Path(given.text).name,
        "windows": SAMPLES,
        "length": LENGTH,
        "seed": SEED,
        "absent": "a fifth of the",
        "dtype": "float32",
        "instructions": environment()["instructions"],
        "models": rows,
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
