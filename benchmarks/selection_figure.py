"""Draws held-out perplexity against tokens processed, from benchmarks/results/selection.json."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from tables_selection import averages

ROOT = Path(__file__).parents[1]
LEFT_OUT = 1.5
MARKERS = "*osD^v<>Ph"


def draw(model: dict[str, Any]) -> Any:
    """One panel for each number of players removed, without the much worse and those that read no text."""
    found = [row for row in averages(model) if row["perplexity"] and row["tokens"]]
    sizes = sorted({row["n_remove"] for row in found})
    best = {size: min(row["perplexity"] for row in found if row["n_remove"] == size) for size in sizes}
    rows = [row for row in found if row["perplexity"] < LEFT_OUT * best[row["n_remove"]]]
    names = sorted({row["method"] for row in rows}, key=lambda name: (name != "ours", name))
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(4 * len(sizes), 4.2), layout="constrained", squeeze=False
    )
    drawn: dict[str, Any] = {}
    for panel, number in zip(panels[0], sizes, strict=True):
        for row in (row for row in rows if row["n_remove"] == number):
            low, high = row["perplexity"] - row["lowest"], row["highest"] - row["perplexity"]
            place = names.index(row["method"])
            drawn[row["method"]] = panel.errorbar(
                row["tokens"],
                row["perplexity"],
                [[low], [high]],
                fmt=MARKERS[place % len(MARKERS)],
                color=f"C{place % 10}",
                capsize=2,
            )
        panel.set(title=f"{number} removed", xlabel="tokens processed", xscale="log")
    panels[0][0].set_ylabel("held-out perplexity, mean and range over seeds")
    figure.legend([drawn[name] for name in names], names, loc="outside lower center", ncols=5)
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
