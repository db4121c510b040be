"""Draws held-out perplexity against tokens processed, from benchmarks/results/selection.json."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from tables_selection import averages

ROOT = Path(__file__).parents[1]


def draw(model: dict[str, Any]) -> Any:
    """One panel for each number of players removed."""
    rows = averages(model)
    sizes = sorted({row["n_remove"] for row in rows})
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(4 * len(sizes), 3.6), layout="constrained", squeeze=False
    )
    for panel, number in zip(panels[0], sizes, strict=True):
        for row in (row for row in rows if row["n_remove"] == number and row["perplexity"]):
            tokens = max(row["tokens"], 1)
            low, high = row["perplexity"] - row["lowest"], row["highest"] - row["perplexity"]
            panel.errorbar(tokens, row["perplexity"], [[low], [high]], fmt="o", markersize=4)
            place = (tokens, row["perplexity"])
            panel.annotate(row["method"], place, (4, 3), textcoords="offset points", fontsize=7)
        panel.set(title=f"{number} removed", xlabel="tokens processed", yscale="log")
        panel.set_xscale("symlog", linthresh=1000)
    panels[0][0].set_ylabel("held-out perplexity")
    return figure


def main() -> None:
    """Write docs/figures/selection.svg for the first model."""
    content = json.loads((ROOT / "benchmarks" / "results" / "selection.json").read_text())
    mpl.rcParams["svg.hashsalt"] = "shapcut"
    target = ROOT / "docs" / "figures" / "selection.svg"
    target.parent.mkdir(exist_ok=True)
    draw(content["models"][0]).savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
