"""The tables of `benchmarks/players`."""

from typing import Any

import numpy as np

from tables_mending import judged_cell

_TOLD_APART = 2.0
"""Standard errors beyond which a paired difference counts."""


def players_families(content: dict[str, Any]) -> str:
    """The families whose experts, or parts and experts, were tried, and why some are refused."""
    rows = content["families"]
    exact = [name for name, row in rows.items() if row["verdict"] == "exact"]
    largest = max(rows[name]["largest_difference"] for name in exact)
    lines = [
        f"transformers {content['transformers']}, torch {content['torch']}, {content['machine']}: {len(rows)} families with "
        f"experts, {len(exact)} exact; the largest difference {largest:.1g} of the effect.",
        "",
        f"Exact: {', '.join(exact)}.",
        "",
    ]
    lines += [f"- {name}, {row['verdict']}: {row['reason']}" for name, row in rows.items() if "reason" in row]
    return "\n".join([*lines, "", f"`{content['command']}`."])


def sublayers_families(content: dict[str, Any]) -> str:
    """The families whose blocks come apart, and why those of others do not."""
    rows = content["families"]
    exact = {name: row for name, row in rows.items() if row["verdict"] == "exact"}
    largest = max(row["largest_difference"] for row in exact.values())
    zeroed = [row for row in exact.values() if row["compared_with_zeroed"]]
    single = [name for name, row in exact.items() if row["kinds"].get("mlp", 0) * 2 != row["sublayers"]]
    lines = [
        f"transformers {content['transformers']}, torch {content['torch']}, {content['machine']}: {len(rows)} families, "
        f"{len(exact)} exact, the other {len(rows) - len(exact)} refused; the largest difference {largest:.1g} of the "
        f"effect. {len(zeroed)} of them were also compared with zeroed output projections.",
        "",
        f"Exact: {', '.join(exact)}.",
        "",
        f"With blocks of a single part: {', '.join(single)}.",
        "",
        "Refused:",
        "",
    ]
    lines += [f"- {name}: {row['reason']}" for name, row in rows.items() if "reason" in row]
    return "\n".join([*lines, "", f"`{content['command']}`."])


def players_experts(content: dict[str, Any]) -> str:
    """How experts are chosen: perplexity and tokens of each method, a line for each cell, then the bounds."""
    found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        found.setdefault((row["model"], row["n_remove"], row["method"]), []).append(row)
    equal = ("ours", "frequency", "ean", "reap", "greedy", "random")
    others = tuple(f"{name}, {what}" for what in ("all text", "unequal") for name in ("ean", "reap"))
    lines = []
    for methods, heading in ((equal, "ours' tokens"), (others, "")):
        lines += [
            f"| model | removed | {' | '.join(methods)} | {heading} |",
            f"|---|---|{'---|' * (len(methods) + 1)}",
        ]
        for model, n_remove in dict.fromkeys(key[:2] for key in found):
            rows = {method: found[model, n_remove, method] for method in methods}
            cells = [_expert_cell(rows[method]) for method in methods]
            each, of = next(iter(rows.values()))[0]["removed_each"]
            greedy = content["greedy_tokens"][f"{model} {n_remove}"]
            share = f"{_mean(rows['ours'], 'tokens') / greedy:.0%} of greedy's" if "ours" in rows else ""
            lines.append(f"| {model} | {each} of {of} a layer | {' | '.join(cells)} | {share} |")
        lines.append("")
    seeds = sorted({row["seed"] for row in content["rows"] if row["method"] == "ours"})
    text = content["calibration"]
    whole = ", ".join(f"{name} {perplexity:.2f}" for name, perplexity in content["whole"].items())
    return "\n".join(
        [
            *lines,
            f"Held-out perplexity on {content['held_out_windows']} windows of {text['length']} tokens ({whole} before the cut), "
            f"mean of seeds {', '.join(map(str, seeds))}; in brackets, thousandths of a nat above `ours` and the standard error of "
            f"the paired difference over windows, which seeds share. All methods measure on {text['windows']} windows; `ours` compares its finalists "
            f'on {text["further_windows"]} further ones, which the columns "all text" read too. Unequal counts over all layers '
            f"are values only. `{content['command']}`, torch {content['torch']}.",
        ]
    )


def players_mixed(content: dict[str, Any]) -> str:
    """Mixed cuts beside those of one kind: perplexity, and what was removed with the first seed."""
    names = {"mixed": "mixed", "block": "blocks", "moe": "MoE parts", "expert": "experts"}
    found: dict[tuple[str, float], dict[str, list[dict[str, Any]]]] = {}
    for row in content["rows"]:
        found.setdefault((row["model"], row["ratio"]), {}).setdefault(row["method"], []).append(row)
    lines = [
        f"| model | parameters | {' | '.join(names.values())} | mixed removed, first seed |",
        f"|---|---|{'---|' * (len(names) + 1)}",
    ]
    for (model, ratio), rows in found.items():
        cells = [_mixed_cell(rows[method]) for method in names]
        lines.append(f"| {model} | -{ratio:.1%} | {' | '.join(cells)} | {rows['mixed'][0]['what']} |")
    seeds = ", ".join(map(str, sorted({row["seed"] for row in content["rows"]})))
    text = content["calibration"]
    whole = ", ".join(f"{name} {perplexity:.2f}" for name, perplexity in content["whole"].items())
    return "\n".join(
        [
            *lines,
            "",
            _mixed_wins(content["rows"]),
            "",
            f"Held-out perplexity on {content['held_out_windows']} windows of {text['length']} tokens ({whole} before the cut), "
            f"mean of seeds {seeds}; in brackets, thousandths of a nat above `mixed` and the standard error of the paired "
            f"difference over windows, which seeds share. `mixed` has {content['budget_of_mixed']} coalitions on {text['windows']} windows, as many "
            f"as the three kinds together, which have {content['budget']} each; all compare their "
            f"finalists on {text['further_windows']} further ones. A dash: the kind alone does not reach the target, or no "
            f"checkpoint can lack it. `{content['command']}`, torch {content['torch']}.",
        ]
    )


def _mixed_wins(rows: list[dict[str, Any]]) -> str:
    """In how many cells mixed cuts are the best, tie, or lose, and by how much."""
    cells: dict[tuple[str, float, int], list[tuple[float, float]]] = {}
    for row in rows:
        others = cells.setdefault((row["model"], row["ratio"], row["seed"]), [])
        if row["method"] != "mixed" and "nats_above_mixed" in row:
            others.append(tuple(row["nats_above_mixed"]))
    rivals = {cell: min(others) for cell, others in cells.items()}
    won = sum(difference >= 0 for difference, _ in rivals.values())
    lost = {cell: pair for cell, pair in rivals.items() if pair[0] < -_TOLD_APART * pair[1]}
    said = (
        f"In {won} of the {len(rivals)} cells (model, ratio, seed) no kind alone is better than `mixed`, and in "
        f"{len(rivals) - won - len(lost)} the best of them is not told apart from it"
    )
    for (model, ratio, seed), (difference, _) in lost.items():
        said += f"; {model} at -{ratio:.1%} with seed {seed} is worse by {100 * np.expm1(-difference):.1f} %"
    return f"{said}."


def players_sublayers(content: dict[str, Any]) -> str:
    """Cuts of blocks and of parts of blocks, plain and compensated: cache, and perplexity on each text."""
    rows = content["rows"]
    whole = rows[0]
    texts = list(whole["judged"])
    lines = [
        f"| cut | removed | weights | parameters | cache | {' | '.join(texts)} |",
        f"|---|---|---|---|---|{'---|' * len(texts)}",
    ]
    for row in rows:
        cut = "" if row is whole else f"{row['blocks']} blocks' worth: `{row['kind']}`"
        after = {"none": "as they were", "compensate": "compensated"}[row["after"]]
        sizes = [f"{row['parameters'] / 1e6:.1f} M", f"{row['cache'] / 2**20:.1f} MiB"]
        cells = [judged_cell(row["judged"][text]) for text in texts]
        lines.append(f"| {' | '.join([cut or 'whole model', row.get('what', ''), after, *sizes, *cells])} |")
    text = content["calibration"]
    return "\n".join(
        [
            *lines,
            "",
            f"{content['model']}: held-out perplexity on {content['held_out_windows']} windows of {text['length']} tokens of each "
            f"text; in brackets the 95 % interval of the change against the cut of blocks with the same treatment, over paired "
            f"windows. Each kind has {content['budget']} coalitions for its three cuts, on {text['windows']} windows of the built-in "
            f"text, and compares finalists on {text['further_windows']} further ones; seed {content['seed']}. The cache after "
            f"{content['prompt']} tokens. `{content['command']}`, torch {content['torch']}, {content['instructions']}.",
        ]
    )


def forms(content: dict[str, Any]) -> str:
    """What a cut of each form takes after reloading, beside what was promised."""
    lines = [
        "| model | removed | form | parameters | bytes | cache | promised time | measured time | logits differ by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        promised, found = row["promised"], row["found"]
        sizes = [_kept(found[name], promised[name]) for name in ("parameters", "bytes", "cache")]
        taken = sorted(found["time"])
        quarter = len(taken) // 4
        spread = f"{taken[len(taken) // 2]:.2f} ({taken[quarter]:.2f} to {taken[-quarter - 1]:.2f})"
        cells = [row["model"], row["what"], f"`{row['form']}`", *sizes, f"{promised['time']:.2f}", spread]
        lines.append(f"| {' | '.join(cells)} | {row['difference']:.1g} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Cache after {content['cached']} tokens; time as a share of the whole model's, the mean of reading "
            f"{content['prompt']} tokens and of one of {content['new']} further ones: median and quartiles of "
            f"{content['turns']} turns, in CPU seconds of one thread. Logits by the largest difference from the whole model "
            f"with the players bypassed, as a share of the cut's effect. `{content['command']}`, torch {content['torch']}, "
            f"{content['machine']}.",
        ]
    )


def _kept(found: int, promised: float) -> str:
    """A size, and by how much it misses the promise, if it does."""
    miss = found - round(promised)
    return f"{found:,}" if miss == 0 else f"{found:,} ({miss:+,} of what was promised)"


def _mixed_cell(rows: list[dict[str, Any]]) -> str:
    known = [row for row in rows if "failure" not in row]
    if not known:
        return "-"
    perplexity = f"{_mean(known, 'perplexity'):.2f}"
    if known[0]["method"] == "mixed":
        return perplexity
    above = sum(row["nats_above_mixed"][0] for row in known) / len(known)
    error = sum(row["nats_above_mixed"][1] for row in known) / len(known)
    return f"{perplexity} ({1e3 * above:+.1f} ± {1e3 * error:.1f})"


def _expert_cell(rows: list[dict[str, Any]]) -> str:
    perplexity = f"{_mean(rows, 'perplexity'):.2f}"
    if "nats_above_ours" not in rows[0] or rows[0]["method"] == "ours":
        return perplexity
    above = sum(row["nats_above_ours"][0] for row in rows) / len(rows)
    error = sum(row["nats_above_ours"][1] for row in rows) / len(rows)
    return f"{perplexity} ({1e3 * above:+.1f} ± {1e3 * error:.1f})"


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows)) / len(rows)
