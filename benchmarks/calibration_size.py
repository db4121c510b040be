"""How well contributions from two disjoint calibration sets agree as the sets grow.

    python benchmarks/calibration_size.py [MODEL ...]

The same 100 coalitions are measured on 64 windows of 128 tokens, each window by itself; contributions are
those of the quadratic surrogate fitted to the means over two disjoint sets of windows, 20 times a size.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.robustness import kendall, spearman
from shapcut.estimators.sampling import GuidedSampler
from shapcut.game.coalitions import without
from shapcut.host.host import build_host
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import make_recipe
from shapcut.support.files import write_json_atomically

HERE = Path(__file__).parent
RESULT = HERE / "results" / "calibration_size.json"
FIGURE = HERE.parent / "docs" / "figures" / "calibration-size.svg"
MODELS = ("benchmarks/zoo/models/llama", "demo:smollm2-135m")
WINDOWS, LENGTH, COALITIONS, DRAWS = 64, 128, 100, 20


def by_window(model: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The coalitions and their values on each window, (n_coalitions, windows)."""
    sizes = {"samples": WINDOWS, "sequence_length": LENGTH, "finalist_samples": 0, "compile": "off"}
    session = prepare(make_recipe({"model": model, **sizes}), build_host(), target=False)
    game, n = session.game, session.game.n_players
    singles = without(n, [(), *([player] for player in range(n))])
    sampler = GuidedSampler(np.zeros(n), max(2, n // 4))
    further = sampler.sample(game.players, 2 * COALITIONS, np.random.default_rng(0))
    further = further[(~further).sum(axis=1) > 1][: COALITIONS - len(singles)]
    coalitions = np.vstack([singles, further])
    pairs = [
        game.on(game.input_ids[start : start + 2]).measurements(coalitions)[:, 1:]
        for start in range(0, WINDOWS, 2)
    ]
    return coalitions, np.hstack(pairs)


def contributions(coalitions: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapley values of a quadratic surrogate of these values."""
    return QuadraticSurrogate().fit(coalitions, values).shapley()[0]


def agreement(coalitions: NDArray[np.bool_], values: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One row for each size of a calibration set."""
    rows, windows = [], 1
    while windows <= WINDOWS // 2:
        taus, rhos = [], []
        for draw in range(DRAWS):
            order = np.random.default_rng([windows, draw]).permutation(WINDOWS)
            left, right = (
                contributions(
                    coalitions, values[:, order[part * windows : (part + 1) * windows]].mean(axis=1)
                )
                for part in range(2)
            )
            taus.append(kendall(left, right))
            rhos.append(spearman(left, right))
        rows.append(
            {
                "windows": windows,
                "tokens": windows * LENGTH,
                "kendall": round(float(np.mean(taus)), 4),
                "kendall_deviation": round(float(np.std(taus, ddof=1)), 4),
                "spearman": round(float(np.mean(rhos)), 4),
            }
        )
        windows *= 2
    return rows


def draw(found: dict[str, Any]) -> None:
    """A curve for each model."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend

    plt.rcParams["svg.hashsalt"] = "shapcut"
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, rows in found.items():
        tokens, taus, deviations = (
            [row[k] for row in rows] for k in ("tokens", "kendall", "kendall_deviation")
        )
        axis.errorbar(tokens, taus, yerr=deviations, marker="o", markersize=3, capsize=2, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("tokens in each of two disjoint calibration sets")
    axis.set_ylabel("Kendall's tau of their rankings")
    axis.legend()
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Measure what the command line names; results of other models stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for model in parser.parse_args().models:
        found[model.rpartition("/")[2]] = agreement(*by_window(model))
        write_json_atomically(RESULT, found)
        draw(found)
        print(model, found[model.rpartition("/")[2]], flush=True)


if __name__ == "__main__":
    main()
