"""Draws how the cost of evaluation grows, from benchmarks/results/speed.json."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write docs/figures/speed-growth.svg."""
    growth = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text())["growth"]["curves"]
    mpl.rcParams["svg.hashsalt"] = "shapcut"
    figure, axes = plt.subplots(1, len(growth), figsize=(9, 2.8), layout="constrained")
    for axis, (what, points) in zip(axes, growth.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axis.plot(sizes, seconds, "o-", label="measured")
        axis.plot(sizes, [seconds[0] * size / sizes[0] for size in sizes], "--", label="linear")
        axis.set(xlabel=what, ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes[0].legend(frameon=False, fontsize="small")
    target = ROOT / "docs" / "figures" / "speed-growth.svg"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
