"""The table of what compensation does for texts of other kinds."""

from typing import Any

_STEPS = {
    "compensate:into=mlp,samples=128,trial=false": "MLPs, one text",
    "compensate": "default",
    "compensate:places=all": "default, `places=all`",
}


def mending(content: dict[str, Any]) -> str:
    """Perplexities on each text, a line for each model and way to compensate."""
    rows = content["rows"]
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
        cost = [f"{row['tokens']:,}", f"{row['seconds']:.0f}"] if "tokens" in row else ["", ""]
        cells = [judged_cell(row["judged"][text], told="tokens" in row) for text in texts]
        lines.append(f"| {' | '.join([row['model'], gone, name, *cost, *cells])} |")
    windows = sorted({row["windows"] for row in rows})
    about = f"{', '.join(map(str, windows))} windows of 128 tokens of each text, {content['machine']}"
    return "\n".join([*lines, "", f"`python benchmarks/mending.py`, {about}."])


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
    if not told or change is None:
        return f"{found['perplexity']:.2f}"
    low, high = (100 * (change[end] - 1) for end in ("low", "high"))
    return f"{found['perplexity']:.2f} ({low:+.1f} to {high:+.1f} %)"
