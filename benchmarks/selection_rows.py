"""Rows of the selection benchmark, averaged over seeds."""

from statistics import mean
from typing import Any


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
        "seconds": mean(row["seconds"] for row in rows),
        "seeds": len(rows),
    }
