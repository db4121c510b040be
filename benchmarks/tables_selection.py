"""The tables of selection and of estimators."""

from statistics import geometric_mean, mean
from typing import Any

NEAR = 0.01


def selection(content: dict[str, Any]) -> str:
    """Every method: on the first model in full, on the others in one table, geometric means over seeds."""
    first, *others = content["models"]
    lines = [
        f"{_about(first)} Dense: {_perplexity(first['dense_held_out_perplexity'])}. "
        "Perplexities are geometric means over seeds.",
        "",
        f"| removed | method | held-out perplexity | lowest, highest | within {NEAR:.0%} of the best, seeds | coalitions "
        "| tokens processed | seconds, first seed | blocks removed, seed by seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in averages(first):
        sets = list(dict.fromkeys(", ".join(map(str, removed)) for removed in row["removed"]))
        spread = "" if row["seeds"] == 1 else f"{_perplexity(row['lowest'])}, {_perplexity(row['highest'])}"
        cells = [
            str(row["n_remove"]),
            row["method"],
            _perplexity(row["perplexity"]),
            spread,
            f"{row['near']} of {row['seeds']}",
            f"{row['evaluations']:,.0f}",
            f"{row['tokens']:,.0f}",
            f"{row['seconds']:,.1f}",
            "; ".join(sets),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_failures(first), *(_overview(others) if others else [])]
    remark = f" {content['remark']}" if content.get("remark") else ""
    lines.append(f"`{content['command']}`, {content['hardware']}, torch {content['torch']}.{remark}")
    return "\n".join(lines)


def selection_summary(content: dict[str, Any]) -> str:
    """Geometric mean held-out perplexity of the methods that ran with every seed, on the first model."""
    model = content["models"][0]
    rows = averages(model)
    seeds = max(row["seeds"] for row in rows)
    found = {(row["method"], row["n_remove"]): row for row in rows if row["seeds"] == seeds}
    counts = sorted({n_remove for _, n_remove in found})
    middle = counts[len(counts) // 2]
    lines = [
        f"| method | {' | '.join(f'{count} blocks removed' for count in counts)} | tokens read to remove {middle} |",
        f"|---|{'---|' * len(counts)}---|",
    ]
    for row in rows:
        if row["n_remove"] == middle and row["seeds"] == seeds:
            cells = [_perplexity(found[row["method"], count]["perplexity"]) for count in counts]
            lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['tokens']:,.0f} |")
    facts = model["model"]
    about = (
        f"Held-out perplexity of {facts['source']} ({facts['players']} blocks, "
        f"{_perplexity(model['dense_held_out_perplexity'])} before the cut), geometric mean of {seeds} seeds, without retraining; "
        f"`ours` is shapcut's quadratic surrogate and search. `{content['command'].split(' --')[0]}`."
    )
    return "\n".join([*lines, "", about])


def _about(model: dict[str, Any]) -> str:
    """The model, and the text of calibration and of judgement."""
    text, facts = model["text"], model["model"]
    calibration, judged = (
        " x ".join(map(str, text[f"{key}_windows"])) for key in ("calibration", "held_out")
    )
    return (
        f"**{facts['source']}**, {facts['players']} blocks, coalitions in {facts['dtype']}; calibration {calibration} "
        f"tokens of {text['calibration']}, judged on {judged} tokens of {text['held_out']}, "
        f"{'BOS first' if text['adds_bos'] else 'no BOS'}."
    )


def _overview(models: list[dict[str, Any]]) -> list[str]:
    """Geometric mean held-out perplexity of every method, a column for each model and number removed."""
    found = {
        (model["model"]["source"], row["n_remove"], row["method"]): row
        for model in models
        for row in averages(model)
    }
    columns = list(dict.fromkeys(key[:2] for key in found))
    lines = [
        f"| method | within {NEAR:.0%} of the best, seed by seed | tokens processed, mean | "
        f"{' | '.join(f'{name}, {number} removed' for name, number in columns)} |",
        f"|---|---|---|{'---|' * len(columns)}",
    ]
    lowest = {
        column: min(
            row["perplexity"] for key, row in found.items() if key[:2] == column and row["perplexity"]
        )
        for column in columns
    }
    names = dict.fromkeys(key[2] for key in found)
    own = {name: [row for key, row in found.items() if key[2] == name] for name in names}
    for name in sorted(names, key=lambda name: -sum(row["near"] for row in own[name])):
        rows = own[name]
        cells = [
            f"{sum(row['near'] for row in rows)} of {sum(row['seeds'] for row in rows)}",
            f"{mean(row['tokens'] for row in rows):,.0f}",
        ]
        for column in columns:
            row = found.get((*column, name))
            text = "" if row is None else _perplexity(row["perplexity"])
            cells.append(f"**{text}**" if row and row["perplexity"] == lowest[column] else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    abouts = dict.fromkeys(_about(model).split(", ", 1)[1] for model in models)
    dense = ", ".join(
        f"{model['model']['source']} {_perplexity(model['dense_held_out_perplexity'])}" for model in models
    )
    failures = [failure for model in models for failure in _failures(model)]
    return [
        *lines,
        "",
        *(about[0].upper() + about[1:] for about in abouts),
        f"Dense: {dense}.",
        "",
        *failures,
    ]


def _failures(model: dict[str, Any]) -> list[str]:
    return sorted({f"{row['method']}: {row['failure']}" for row in model["rows"] if row["failure"]})


def averages(model: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each number of players and method, best first within a number; failures are left out."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    best: dict[tuple[int, int], float] = {}
    for row in model["rows"]:
        if not row["failure"]:
            groups.setdefault((row["n_remove"], row["method"]), []).append(row)
            cell, value = (row["n_remove"], row["seed"]), row["held_out_perplexity"]
            best[cell] = min(best.get(cell, float("inf")), float("inf") if value is None else value)
    found = [_average(rows, best) for rows in groups.values()]
    return sorted(found, key=lambda row: (row["n_remove"], row["perplexity"] or float("inf"), row["method"]))


def _average(rows: list[dict[str, Any]], best: dict[tuple[int, int], float]) -> dict[str, Any]:
    perplexities = [row["held_out_perplexity"] for row in rows]
    finite = None not in perplexities
    return {
        "method": rows[0]["method"],
        "n_remove": rows[0]["n_remove"],
        "perplexity": geometric_mean(perplexities) if finite else None,
        "lowest": min(perplexities) if finite else None,
        "highest": max(perplexities) if finite else None,
        "near": sum(
            row["held_out_perplexity"] is not None
            and row["held_out_perplexity"] <= (1 + NEAR) * best[row["n_remove"], row["seed"]]
            for row in rows
        ),
        "removed": [row["removed"] for row in rows],
        "evaluations": mean(row["evaluations"] for row in rows),
        "tokens": mean(row["tokens"] for row in rows),
        "seconds": rows[0]["seconds"],
        "seeds": len(rows),
    }


def _perplexity(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f}"


def estimators(content: dict[str, Any]) -> str:
    """Error and rank agreement of every estimator, means over the enumerated games."""
    games = content["games"]
    rows = [row for row in content["rows"] if row["game"] in games]
    budgets = sorted({row["budget"] for row in rows})
    lines = [
        f"| estimator | {' | '.join(f'{budget} coalitions' for budget in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for name in dict.fromkeys(row["estimator"] for row in rows):
        cells = []
        for budget in budgets:
            own = [
                row for row in rows if (row["estimator"], row["budget"]) == (name, budget) and "error" in row
            ]
            mean = [sum(row[key] for row in own) / max(1, len(own)) for key in ("error", "kendall")]
            cells.append(f"{mean[0]:.3f} ({mean[1]:.2f})" if len(own) == len(games) else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Root mean square error over players, divided by the spread of the exact values (in brackets Kendall's tau "
        f"with the exact ranking); means over {content['seeds']} seeds and the models {', '.join(games)}, 4,096 "
        f"coalitions each. `{content['command']}`.",
    ]
    return "\n".join(lines)


def best_sets(content: dict[str, Any]) -> str:
    """How near every method comes to the best set, over all enumerated games."""
    rows, near = content["rows"], content["near"]
    lines = [
        f"| method | cells within {near:.0%} | best set found | largest gap | coalitions measured, mean | maximum |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        gaps, spent = [row["gap"] for row in own], [row["evaluations"] for row in own]
        cells = [
            name,
            f"{mean(gap <= near for gap in gaps):.1%}",
            f"{mean(gap <= 0 for gap in gaps):.1%}",
            f"{max(gaps):.2%}",
            f"{mean(spent):.0f}",
            f"{max(spent):,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cells_each = len({(row["game"], row["n_remove"], row["seed"]) for row in rows})
    return "\n".join(
        [
            *lines,
            "",
            f"{cells_each} cells: {', '.join(content['games'])}, 1 to 11 of 12 blocks removed, "
            f"{len({row['seed'] for row in rows})} seeds. `{content['command']}`.",
        ]
    )


def calibration_size(content: dict[str, Any]) -> str:
    """Agreement between the rankings of two disjoint calibration sets, by their size."""
    sizes = sorted({row["tokens"] for rows in content.values() for row in rows})
    lines = [
        f"| model | {' | '.join(f'{size:,} tokens' for size in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for name, rows in content.items():
        found = {row["tokens"]: f"{row['kendall']:.2f} ± {row['kendall_deviation']:.2f}" for row in rows}
        lines.append(f"| {name} | {' | '.join(found.get(size, '') for size in sizes)} |")
    return "\n".join(lines)


def leaderboard(content: dict[str, Any]) -> str:
    """A table for each model: every method and ratio, plain and mended, with intervals."""
    lines: list[str] = []
    for name in dict.fromkeys(row["model"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["model"] == name]
        whole = next(row for row in rows if row["method"] == "whole")
        cuts = sorted(
            (row for row in rows if row["removed"]),
            key=lambda row: (len(row["removed"]), _first_perplexity(row)),
        )
        texts = list(whole["perplexities"])
        dense = ", ".join(f"{whole['perplexities'][text]['perplexity']:.2f} on {text}" for text in texts)
        asked = "accuracy" in whole
        headings = ["removed", "method", "mended by", *(f"perplexity on {text}" for text in texts)]
        headings += ["accuracy, points"] if asked else []
        headings += ["tokens to choose", "seconds to choose", "to mend"]
        lines += [
            f"## {name}",
            "",
            f"{whole['blocks']} blocks; the whole model's perplexity is {dense}"
            + (f", its accuracy {100 * whole['accuracy']['before']:.1f} %." if asked else "."),
            "",
            f"| {' | '.join(headings)} |",
            f"|{'---|' * len(headings)}",
        ]
        lines += [f"| {' | '.join(_leader(row, texts, asked=asked))} |" for row in cuts]
        lines.append("")
    about = (
        f"Sorted by perplexity on the first text, {content['windows']} windows of 128 tokens of each text's held-out quarter; in "
        "brackets the 95 % interval of its change, paired by window. Accuracy: the change of the mean over tasks, with its "
        "interval, paired by question."
    )
    return "\n".join(
        [about, "", *lines, f"`{content['command']}`, {content['instructions']}, torch {content['torch']}."]
    )


def _first_perplexity(row: dict[str, Any]) -> float:
    first = next(iter(row["perplexities"].values()))["perplexity"]
    return float(first)


def _leader(row: dict[str, Any], texts: list[str], *, asked: bool) -> list[str]:
    cells = [str(len(row["removed"])), row["method"], "" if row["after"] == "none" else row["after"]]
    for text in texts:
        found = row["perplexities"].get(text)
        cells.append("" if found is None else f"{found['perplexity']:.2f}{_change(found['ratio'])}")
    if asked and (accuracy := row.get("accuracy")):
        low, high = (f"{100 * accuracy[end]:+.1f}" for end in ("low", "high"))
        cells.append(f"{100 * accuracy['difference']:+.1f} ({low} to {high})")
    elif asked:
        cells.append("")
    mended = f"{row['step seconds']:.1f}" if row["after"] != "none" else ""
    return [*cells, f"{row['tokens']:,}", f"{row['seconds']:.1f}", mended]


def _change(ratio: list[float | None] | None) -> str:
    if ratio is None or ratio[1] is None or ratio[2] is None:
        return ""
    return f" ({100 * (ratio[1] - 1):+.1f} to {100 * (ratio[2] - 1):+.1f} %)"
