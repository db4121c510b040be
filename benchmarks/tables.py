"""Fill the tables of README and docs from `benchmarks/results`: no number in them is typed by hand.

python benchmarks/tables.py            # rewrites the marked places
python benchmarks/tables.py --check    # exit status 1 if one is out of date
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ZOO = ROOT / "benchmarks" / "zoo" / "models"


def main_job(content: dict[str, Any]) -> str:
    """The main job against greedy search."""
    lines = [
        f"{content['model']}; {content['n_remove']} removed. {content['text']}.",
        "",
        "| method | seed | removed blocks | held-out perplexity | evaluations | tokens processed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        removed = ", ".join(map(str, row["removed"])) or "none"
        evaluations = " + ".join(str(count) for count in row.get("evaluations", {}).values())
        tokens = f"{row['tokens']:,}" if "tokens" in row else ""
        cells = [
            row["method"],
            str(row["seed"]),
            removed,
            f"{row['perplexity']:.2f}",
            evaluations,
            tokens,
            str(row.get("seconds", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"`{content['command']}`, {content['hardware']}, torch {content['torch']}."]
    return "\n".join(lines)


def families(content: dict[str, Any]) -> str:
    """Every family of the sweep, with its verdict."""
    rows = content["families"]
    claimed = {name: row for name, row in rows.items() if "adapter" in row}
    removals = sum(row["removals"] for row in claimed.values())
    largest = max(row["largest_difference"] for row in claimed.values())
    exact = sum(row["verdict"].startswith("exact") for row in claimed.values())
    lines = [
        f"transformers {content['transformers']}, torch {content['torch']}, {content['machine']}, seeds "
        f"{', '.join(map(str, content['seeds']))}: {len(rows)} families of causal language models, "
        f"{len(claimed)} claimed, {exact} exact; "
        f"{removals} removals, the largest difference {largest:.1g} of the effect.",
        "",
        "| model type | class | verdict | removals | largest difference | fast path | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_family(name, row))} |" for name, row in rows.items()]
    return "\n".join([*lines, "", f"`{content['command']}`."])


def _family(name: str, row: dict[str, Any]) -> list[str]:
    if "adapter" not in row:
        return [name, row["class"], row["verdict"], "", "", "", ""]
    notes = [*row["constraints"], *([f"cache of the whole model: {row['cache']}"] if row["cache"] else [])]
    fast = "yes" if row["fast_path"] else "no"
    difference = f"{row['largest_difference']:.1g}"
    return [name, row["class"], row["verdict"], str(row["removals"]), difference, fast, "; ".join(notes)]


def _about(content: dict[str, Any]) -> list[str]:
    return [
        f"{content['model']}; {content['text']}; {content['hardware']}, torch {content['torch']}. "
        "`python benchmarks/speed.py --text wikitext2/valid.txt`.",
        "",
    ]


def speed(content: dict[str, Any]) -> str:
    """Seconds a coalition, ours and the reference's way in turns."""
    part = content["coalitions"]
    lines = [
        *_about(content),
        "| way | seconds a coalition | times faster | block runs a coalition | share of the product peak |",
        "|---|---|---|---|---|",
    ]
    for name, row in part["summary"].items():
        cells = [
            name,
            f"{row['seconds a coalition']:.3f}",
            f"{row['times faster than the reference']:.2f}",
            f"{row['block runs a coalition']:.1f}",
            f"{row['share of the matrix-product peak']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    tried = ", ".join(
        f"{row['dtype']} {'all samples at once' if row['samples at once'] else 'one sample at a time'} "
        f"{row['seconds']:.2f} s"
        for row in part["reference tried"]
    )
    warm = ", ".join(f"{name} {value:.0f} s" for name, value in part["warm-up seconds"].items())
    ratios = ", ".join(f"{turn['fused, siblings']['ratio']:.2f}" for turn in part["turns"])
    lines += [
        "",
        f"The reference's way was tried as: {tried}; the table has the fastest. Start of our evaluation, compiling "
        f"included: {warm}. Ratio of the last row, turn by turn: {ratios}. Peak of bfloat16 products measured: "
        f"{part['peak GFLOPS']:.0f} GFLOPS. Peak memory of the process that holds the model in both formats and "
        f"all evaluators: {part['peak memory MiB']:.0f} MiB.",
    ]
    return "\n".join(lines)


def speed_values(content: dict[str, Any]) -> str:
    """How far values are from the slow bypass."""
    part = content["values"]
    rows = [
        (
            "float32 against the bypass in float32",
            part["float32 coalitions"],
            part["float32 largest difference"],
        ),
        (
            "bfloat16 against the bypass in bfloat16",
            part["bfloat16 coalitions"],
            part["bfloat16 largest difference from the bypass in bfloat16"],
        ),
        (
            "bfloat16 against float32",
            part["bfloat16 coalitions"],
            part["bfloat16 largest difference from float32"],
        ),
        (
            "the bypass in bfloat16 against float32",
            part["bfloat16 coalitions"],
            part["bypass in bfloat16, largest difference from float32"],
        ),
    ]
    low, high = part["loss range"]
    return "\n".join(
        [
            "| values | coalitions | largest difference, nats |",
            "|---|---|---|",
            *(f"| {name} | {count} | {difference:.2g} |" for name, count, difference in rows),
            "",
            f"Losses range from {low:.1f} to {high:.1f} nats. 95 % of the bfloat16 values are within "
            f"{part['bfloat16 95th percentile of that']:.2g} of their bypass. Spearman correlation in bfloat16: "
            f"{part['bfloat16 Spearman with the bypass in bfloat16']:.5f} with the bypass, "
            f"{part['bfloat16 Spearman with float32']:.5f} with float32.",
        ]
    )


def speed_plan(content: dict[str, Any]) -> str:
    """The whole way to a plan."""
    part, quality = content["plan"], content["paper"]
    rows = [
        ("dense", "", "dense"),
        (
            "the reference's pipeline: 8,000 masks, 80,000 surrogate masks",
            f"{part['reference seconds in all, multiplied']:,.0f} (multiplied)",
            None,
        ),
        (f"the paper's method, {quality['masks']:,} masks run", "", "paper"),
        (
            "shapcut, from loading to the plan",
            f"{part['ours seconds, from loading to the plan']:,.0f}",
            "ours",
        ),
    ]
    lines = ["| way | seconds | removed | held-out perplexity |", "|---|---|---|---|"]
    for name, took, key in rows:
        result = (
            ["", ""] if key is None else [str(quality[key]["removed"]), f"{quality[key]['perplexity']:.2f}"]
        )
        lines.append(f"| {' | '.join([name, took, *result])} |")
    lines += [
        "",
        f"Ratio of times: {part['times faster']:.0f}. The reference's cost is "
        f"{part['reference seconds a mask']:.2f} s a mask and "
        f"{part['reference surrogate seconds a mask'] * 1e3:.1f} ms of surrogate calls a surrogate mask, measured "
        "and multiplied by its published sizes.",
    ]
    return "\n".join(lines)


def speed_growth(content: dict[str, Any]) -> str:
    """Seconds against what they should grow with."""
    lines = ["| | seconds | seconds over the first row's | size over the first row's |", "|---|---|---|---|"]
    for what, points in content["growth"].items():
        size, took = points[0]
        lines += [
            f"| {n:,} {what} | {value:.1f} | {value / took:.2f} | {n / size:.2f} |" for n, value in points
        ]
    return "\n".join(lines)


def speed_places(content: dict[str, Any]) -> str:
    """Other processes, and weights on disk."""
    ray, offload = content["executors"], content["offload"]
    disk, memory = offload["disk"], offload["off"]
    return "\n".join(
        [
            f"Two Ray workers of one thread each took {ray['ray over local']:.2f} times as long as one process of two "
            f"threads for {ray['coalitions']} coalitions ({ray['ray seconds']:.0f} s against {ray['local seconds']:.0f} s; "
            f"to start, {ray['ray seconds to start']:.0f} s against {ray['local seconds to start']:.0f} s). Largest "
            f"difference of values: {ray['largest difference of values']:.2g} nats.",
            "",
            f"With {offload['limit'] / 1e6:.0f} MB of memory allowed to the whole process (control group) and "
            f"{offload['weights'] / 1e6:.0f} MB of weights, `--offload disk` ended with status {disk['exit status']} after "
            f"{disk['seconds']:.0f} s; without offload the same run ended with status {memory['exit status']} "
            "(-9: killed for its memory).",
        ]
    )


def zoo(content: dict[str, Any]) -> str:
    """The models of the zoo: how they were trained and what came out."""
    lines = [
        "| model | parameters | file | tokens in training | CPU seconds | held-out perplexity "
        "| token frequencies | factor | loss added without a block |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in content.items():
        end, first, *others = found["curve"][-1], *found["loss_added_without_block"]
        cells = [
            name,
            f"{found['parameters']:,}",
            f"{found['bytes'] / 1e6:.2f} MB",
            f"{end['tokens']:,}",
            f"{end['cpu_seconds']:.0f}",
            f"{found['held_out_perplexity']:.2f}",
            f"{found['unigram_perplexity']:.2f}",
            f"{found['factor']:.1f}",
            f"{first:.2f} (first), {min(others):.3f} to {max(others):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    some = next(iter(content.values()))
    lines += ["", f"Measured on {some['held_out_tokens']:,} tokens of {some['text']}, in windows of "]
    lines[-1] += f"{some['sequence_length']} tokens."
    return "\n".join(lines)


def estimators(content: dict[str, Any]) -> str:
    """Error and rank agreement of every estimator, means over the enumerated games."""
    rows = content["rows"]
    budgets, games = sorted({row["budget"] for row in rows}), content["games"]
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


def read_result(name: str) -> dict[str, Any]:
    """What a table is made of."""
    if name != "zoo":
        return _json(RESULTS / f"{name.partition('_')[0] if name.startswith('speed') else name}.json")
    models = sorted(path.parent for path in ZOO.glob("*/measurements.json"))
    return {
        model.name: _json(model / "measurements.json") | {"curve": _json(model / "curve.json")}
        for model in models
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "main_job": main_job,
    "families": families,
    "speed": speed,
    "speed_values": speed_values,
    "speed_plan": speed_plan,
    "speed_growth": speed_growth,
    "speed_places": speed_places,
    "zoo": zoo,
    "estimators": estimators,
}
PAGES = ("README.md", "docs/estimators.md", "docs/families.md", "docs/speed.md", "benchmarks/zoo/README.md")


def filled(text: str) -> str:
    """A page with every marked place filled from its result."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name}:begin -->\n{TABLES[name](read_result(name))}\n<!-- {name}:end -->"

    names = "|".join(TABLES)
    return re.sub(rf"<!-- (?P<name>{names}):begin -->.*?<!-- (?P=name):end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Fill or check all pages."""
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    print("\n".join(stale) or "all tables are up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
