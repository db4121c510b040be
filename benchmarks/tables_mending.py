"""The table of what compensation does for texts of other kinds."""

from typing import Any

import numpy as np

_DESTROYED = 1e5
"""A perplexity beyond the size of a vocabulary, shown without digits."""

_STEPS = {
    "compensate:into=mlp,samples=128,trial=false": "MLPs, one text",
    "compensate": "default",
    "compensate:places=all": "default, `places=all`",
    "compensate:samples=1024": "default, `samples=1024`",
}


def mending(content: dict[str, Any]) -> str:
    """Perplexities on each text, a line for each model and way to compensate."""
    groups = list(dict.fromkeys((row["model"], *row["removed"]) for row in content["rows"]))
    rows = sorted(content["rows"], key=lambda row: groups.index((row["model"], *row["removed"])))
    texts = list(rows[0]["judged"])
    lines = [
        "Perplexity on held-out windows; in brackets the 95 % interval of the change against the cut without compensation, over paired windows.",
        "",
        f"| model | removed | weights | fitted tokens | seconds | {' | '.join(texts)} |",
        f"|---|---|---|---|---|{'---|' * len(texts)}",
    ]
    for row in rows:
        name = {"none": "cut"}.get(row["after"], _STEPS.get(row["after"], row["after"]))
        gone = "" if row["after"] == "whole model" else ", ".join(map(str, row["removed"]))
        treated = "seconds" in row
        cost = [f"{row['tokens']:,}" if "tokens" in row else "", f"{row['seconds']:.0f}" if treated else ""]
        cells = [judged_cell(row["judged"][text], told=treated) for text in texts]
        lines.append(f"| {' | '.join([row['model'], gone, name, *cost, *cells])} |")
    windows = {row["model"]: row["windows"] for row in rows}
    fewer = [f"{count} of {model}" for model, count in windows.items() if count < max(windows.values())]
    given = f" ({', '.join(fewer)})" if fewer else ""
    about = f"{max(windows.values())} windows of 128 tokens of each text{given}, {content['machine']}"
    return "\n".join([*lines, "", f"`python benchmarks/mending.py`, {about}."])


def mended_prune(content: dict[str, Any]) -> str:
    """Cuts with and without compensation, a line for each model and way, over the seeds."""
    rows = content["rows"]
    texts = list(rows[0]["judged"])
    lines = [
        f"| model | way | coalitions | seconds | {' | '.join(texts)} |",
        f"|---|---|---|---|{'---|' * len(texts)}",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["after"]), []).append(row)
    for (model, way), some in groups.items():
        cells = [_over_seeds([row["judged"][text] for row in some]) for text in texts]
        cost = [f"{np.mean([row[name] for row in some]):,.0f}" for name in ("budget", "seconds")]
        lines.append(f"| {' | '.join([model, way, *cost, *cells])} |")
    about = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        seeds = ", ".join(map(str, sorted({row["seed"] for row in own})))
        about.append(
            f"{model}: {len(own[0]['removed'])} blocks removed, seed{'s' * (',' in seeds)} {seeds}, {own[0]['machine']}"
        )
    return "\n".join(
        [
            *lines,
            "",
            "Geometric means over seeds; in brackets the changes against `plain` of the same seed, from the lowest to the "
            f"highest end of their 95 % intervals. {'; '.join(about)}; "
            f"{rows[0]['windows']} windows of 128 tokens of each text. `python benchmarks/mended_prune.py`.",
        ]
    )


def _over_seeds(found: list[dict[str, Any]]) -> str:
    mean = f"{float(np.exp(np.mean(np.log([each['perplexity'] for each in found])))):.1f}"
    changes = [each["change"] for each in found if "change" in each]
    if not changes:
        return mean
    low, high = min(each["low"] for each in changes), max(each["high"] for each in changes)
    return f"{mean} ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)"


def mended_cut(content: dict[str, Any]) -> str:
    """A compensated cut against the plain one: perplexity on texts, accuracy on tasks."""
    lines = ["| | plain | compensated | change, 95 % interval |", "|---|---|---|---|"]
    for row in content["texts"]:
        low, high = (100 * (row["change"][end] - 1) for end in ("low", "high"))
        lines.append(
            f"| perplexity on {row['text']} | {row['plain']:.1f} | {row['compensated']:.1f} | {low:+.1f} to {high:+.1f} % |"
        )
    for row in content["tasks"]:
        before, after, low, high = (100 * row[name] for name in ("before", "after", "low", "high"))
        name = f"{row['task']}, {row['metric']}, {row['questions']:,} questions"
        lines.append(f"| {name} | {before:.1f} % | {after:.1f} % | {low:+.1f} to {high:+.1f} points |")
    removed = ", ".join(map(str, content["removed"]))
    return "\n".join(
        [
            *lines,
            "",
            f"{content['model']} without blocks {removed}; {content['windows']} windows of {content['length']} tokens of each text, "
            f"at most {content['limit']} questions of each task; intervals over pairs. `{'`, `'.join(content['commands'])}`; "
            f"{content['machine']}.",
        ]
    )


def judged_cell(found: dict[str, Any], *, told: bool = True) -> str:
    """A perplexity, with the interval of its change if that is to be told and known."""
    change = found.get("change")
    if found["perplexity"] > _DESTROYED:
        return f"{found['perplexity']:.0e}"
    if not told or change is None:
        return f"{found['perplexity']:.2f}"
    low, high = (100 * (change[end] - 1) for end in ("low", "high"))
    return f"{found['perplexity']:.2f} ({low:+.1f} to {high:+.1f} %)"
