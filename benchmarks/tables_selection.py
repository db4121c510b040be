"""The tables of selection and of estimators."""

from statistics import mean
from typing import Any


def selection(content: dict[str, Any]) -> str:
    """Every method on every model, averaged over seeds."""
    lines: list[str] = []
    for model in content["models"]:
        text, facts = model["text"], model["model"]
        windows = " x ".join(map(str, text["held_out_windows"]))
        lines += [
            f"**{facts['source']}**, {facts['players']} blocks, coalitions in {facts['dtype']}; calibration "
            f"{' x '.join(map(str, text['calibration_windows']))} tokens of {text['calibration']}, judged on {windows} "
            f"tokens of {text['held_out']}, {'BOS first' if text['adds_bos'] else 'no BOS'}. "
            f"Dense: {_perplexity(model['dense_held_out_perplexity'])}.",
            "",
            "| removed | method | held-out perplexity | lowest, highest | coalitions | tokens processed | seconds, first seed "
            "| blocks removed, seed by seed |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in averages(model):
            sets = list(dict.fromkeys(", ".join(map(str, removed)) for removed in row["removed"]))
            spread = (
                "" if row["seeds"] == 1 else f"{_perplexity(row['lowest'])}, {_perplexity(row['highest'])}"
            )
            cells = [
                str(row["n_remove"]),
                row["method"],
                _perplexity(row["perplexity"]),
                spread,
                f"{row['evaluations']:,.0f}",
                f"{row['tokens']:,.0f}",
                f"{row['seconds']:,.1f}",
                "; ".join(sets),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        failures = {f"{row['method']}: {row['failure']}" for row in model["rows"] if row["failure"]}
        lines += ["", *(f"{failure}" for failure in sorted(failures)), ""]
    remark = f" {content['remark']}" if content.get("remark") else ""
    lines.append(f"`{content['command']}`, {content['hardware']}, torch {content['torch']}.{remark}")
    return "\n".join(lines)


def averages(model: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each number of players and method, best first within a number; failures are left out."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in model["rows"]:
        if not row["failure"]:
            groups.setdefault((row["n_remove"], row["method"]), []).append(row)
    found = [_average(rows) for rows in groups.values()]
    return sorted(found, key=lambda row: (row["n_remove"], row["perplexity"] or float("inf"), row["method"]))


def _average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    perplexities = [row["held_out_perplexity"] for row in rows]
    finite = None not in perplexities
    return {
        "method": rows[0]["method"],
        "n_remove": rows[0]["n_remove"],
        "perplexity": mean(perplexities) if finite else None,
        "lowest": min(perplexities) if finite else None,
        "highest": max(perplexities) if finite else None,
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
        f"| method | cells within {near:.0%} | the best set itself | largest gap | coalitions measured, mean | most |",
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
