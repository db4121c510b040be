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
    rows = [row for row in averages(model) if row["perplexity"] and row["tokens"]]
    sizes = sorted({row["n_remove"] for row in rows})
    names = sorted({row["method"] for row in rows}, key=lambda name: (name != "ours", name))
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(4 * len(sizes), 4.2), layout="constrained", squeeze=False
    )
    drawn: dict[str, Any] = {}
    for panel, number in zip(panels[0], sizes, strict=True):
        known = [row for row in rows if row["n_remove"] == number]
        best = min(row["perplexity"] for row in known)
        for row in (row for row in known if row["perplexity"] < LEFT_OUT * best):
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
    shown = [name for name in names if name in drawn]
    figure.legend([drawn[name] for name in shown], shown, loc="outside lower center", ncols=len(shown))
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
