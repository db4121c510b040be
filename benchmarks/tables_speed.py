"""The tables of `benchmarks/speed.py`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

LENGTH, SAMPLES = 128, 10


def _where(part: dict[str, Any]) -> str:
    environment = part["environment"]
    instructions = f", {environment['instructions']}" if "instructions" in environment else ""
    return f"{environment['hardware']}{instructions}, torch {environment['torch']}"


def _about(content: dict[str, Any], part: str) -> list[str]:
    return [
        f"{content['model']}; {content['text']}; {_where(content[part])}. "
        f"`python benchmarks/speed.py --text wikitext2/valid.txt {part}`.",
        "",
    ]


def speed(content: dict[str, Any]) -> str:
    """Seconds per coalition, shapcut and the reference in turns."""
    part = content["coalitions"]
    lines = [
        *_about(content, "coalitions"),
        "| approach | seconds per coalition | speedup | block runs per coalition | share of peak matrix throughput |",
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
        f"Variants of the reference: {tried}; the table shows the fastest. Start-up of shapcut's evaluation, including "
        f"compilation: {warm}. Speedup of the last row, turn by turn: {ratios}. Measured peak of bfloat16 products: "
        f"{part['peak GFLOPS']:.0f} GFLOPS. Peak memory of the process, which holds the model in both formats and "
        f"all evaluators: {part['peak memory MiB']:.0f} MiB.",
    ]
    return "\n".join(lines)


def speed_default(content: dict[str, Any]) -> str:
    """Seconds per coalition of the default way at two lengths."""
    if "default" not in content:
        return "Not measured yet: `python benchmarks/speed.py --text FILE default`."
    lines = [
        *_about(content, "default"),
        "| tokens | coalitions | reference, seconds per coalition | default, seconds per coalition | speedup "
        "| turn by turn | at equal text | block runs per coalition at equal text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    part = content["default"]["lengths"]
    for tokens, row in part.items():
        took, ratios = row["seconds a coalition"], ", ".join(f"{turn['ratio']:.2f}" for turn in row["turns"])
        cells = [
            tokens,
            str(row["coalitions"]),
            f"{took['reference']:.2f}",
            f"{took['default']:.2f}",
            f"{row['times faster than the reference']:.2f}",
            ratios,
            f"{row['times faster than the reference'] * row['windows'] / SAMPLES:.2f}",
            f"{row['window runs a coalition'] / row['windows']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    some = next(iter(part.values()))
    lines += [
        "",
        f"Evaluated in {some['dtype']}, {'fused' if some['fused'] else 'eager'}. "
        f"The default measures these coalitions on {some['windows']} of {SAMPLES} windows, the reference on all: *at equal "
        f"text* compares them by the window. The reference measures {sum(turn['reference coalitions'] for turn in some['turns'])} of the coalitions.",
    ]
    return "\n".join(lines)


def block_runs(content: dict[str, Any]) -> str:
    """Block runs at a larger model's shape."""
    lines = [
        "| tokens | GiB for states | block runs per coalition | blocks present |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['windows']} x {row['length']:,} | {row['GiB for states']} | {row['block runs']:.1f} "
        f"| {row['blocks present']:.1f} |"
        for row in content["rows"]
    ]
    lines += [
        "",
        f"{content['coalitions']} guided draws for {content['removed']} of {content['blocks']} blocks at the shape of "
        f"Llama-3-8B in bfloat16, counted without weights, seed {content['seed']}. `{content['command']}`.",
    ]
    return "\n".join(lines)


def siblings(content: dict[str, Any]) -> str:
    """Block runs and fidelity by the number of generations."""
    lines = [
        "| generations | block runs per coalition | distinct among draws | Spearman, equal coalitions "
        "| Spearman, equal block runs | regret of the plan, equal block runs |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["runs"]:
        generations = row["generations"]
        cells = [
            str(generations),
            f"{row['block runs']:.1f}",
            f"{row['distinct among draws']:.0%}",
            _synthetic(content["fidelity"], generations, "coalitions", "Spearman"),
            _synthetic(content["fidelity"], generations, "block runs", "Spearman"),
            _synthetic(
                content["plans"], generations, "block runs" if generations else "coalitions", "regret"
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    zoo = [row for row in content["plans"] if row["game"] != "synthetic"]
    best = sum(row["regret"] == 0.0 for row in zoo)
    counts = content["seeds"]
    lines += [
        "",
        f"Eight of 32 blocks removed in synthetic games, means and standard errors over {counts['fidelity']} "
        f"seeds; regret in nats: five of 20 blocks removed, {counts['plans']} seeds. On the zoo's enumerated games "
        f"the best set was found in every run in {best} of {len(zoo)} cells. `{content['command']}`.",
    ]
    return "\n".join(lines)


def _synthetic(rows: list[dict[str, Any]], generations: int, equal: str, figure: str) -> str:
    wanted = ("synthetic", generations, equal)
    found = [row for row in rows if (row["game"], row["generations"], row["equal"]) == wanted]
    return " ".join(f"{row[figure]:.3f} ± {row['standard errors'][figure]:.3f}" for row in found)


def racing(content: dict[str, Any]) -> str:
    """What measuring on parts of the text saves and costs."""
    lines = [
        "| windows | noise of a block, nats | coalitions, all text | parts | regret, all text, nats "
        "| parts | difference of regrets |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        regret, coalitions = row["regret"], row["coalitions"]
        difference, error = row["difference of regrets"]
        cells = [
            str(row["windows"]),
            f"{row['noise']:g}",
            f"{coalitions['all text']:.0f}",
            f"{coalitions['parts']:.0f}",
            f"{regret['all text']:.3f}",
            f"{regret['parts']:.3f}",
            f"{difference:.3f} ± {error:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Five of 20 blocks removed in synthetic games, budget {content['budget']}, {content['seeds']} seeds, "
        f"means and the standard error of paired differences; coalitions are those charged in all, on parts of the "
        f"text as parts. `{content['command']}`.",
    ]
    return "\n".join(lines)


def readout(content: dict[str, Any]) -> str:
    """How far a sampled vocabulary is from the whole one."""
    lines = [
        "| model | vocabulary | sets | losses, nats | largest error | largest error among the best quarter | Spearman "
        "| readout, times faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in content["models"]:
        low, high = row["losses"]
        cells = [
            row["model"],
            f"{row['vocabulary']:,}",
            str(row["sets"]),
            f"{low:.2f} to {high:.2f}",
            f"{row['largest error']:.3f}",
            f"{row['largest error among the best']:.3f}",
            f"{row['Spearman']:.4f}",
            f"{row['times faster']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"A sampled vocabulary against the whole one: {content['windows']} windows of {content['length']} tokens of "
        f"{content['text']}, {content['dtype']}, {content['instructions']}, seed {content['seed']}; sets lack "
        f"{content['absent']} blocks. Errors in nats. `{content['command']}`.",
    ]
    return "\n".join(lines)


def large_vocabulary(content: dict[str, Any]) -> str:
    """The whole command by two checkouts, in turns."""
    lines = [
        "| weights, instructions | way | seconds to the plan | of before | seconds in all | of before | removed "
        "| held-out perplexity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for case in content["cases"]:
        widest = case["hardware"].rpartition(", ")[2]
        named = f"{case['dtype']}, {widest if case['instructions'] == 'all' else case['instructions']}"
        lines += [f"| {named} | {cells} |" for cells in _ways(case["rows"])]
        notes.append(
            f"{case['model']}, {case['remove']} blocks removed, {case['budget']} coalitions; {case['hardware']}, "
            f"torch {case['torch']}. `{case['command']}`."
        )
    return "\n".join([*lines, "", " ".join(notes)])


def _ways(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What each way takes, beside the earlier one."""
    before = {name: _mean(rows, "before", name) for name in ("plan", "whole")}
    for way in dict.fromkeys(row["way"] for row in rows):
        first = next(row for row in rows if row["way"] == way)
        cells = [way]
        for name, earlier in before.items():
            turns = [f"{row[name]:.0f}" for row in rows if row["way"] == way]
            cells += [", ".join(turns), f"{_mean(rows, way, name) / earlier:.2f}"]
        judged = first["perplexity"]
        quality = f"{judged['dense']:.2f} → {judged['pruned']:.2f}"
        yield " | ".join([*cells, ", ".join(map(str, first["removed"])), quality])


def _mean(rows: list[dict[str, Any]], way: str, name: str) -> float:
    return float(np.mean([row[name] for row in rows if row["way"] == way]))


def speed_values(content: dict[str, Any]) -> str:
    """How far values are from the slow bypass."""
    part = content["values"]
    low, high = part["loss range"]
    return "\n".join(
        [
            "| values | coalitions | largest difference, nats | Spearman |",
            "|---|---|---|---|",
            *(
                f"| {row['values']} | {row['coalitions']} | {row['largest difference']:.2g} | {row['Spearman']:.6f} |"
                for row in part["rows"]
            ),
            "",
            f"Losses range from {low:.1f} to {high:.1f} nats. The bypass runs all windows at once. {_where(part)}.",
        ]
    )


def speed_plan(content: dict[str, Any]) -> str:
    """Time from the model to a plan."""
    part, quality = content["plan"], content.get("paper")
    rows = [
        ("dense", "", "", f"{part['dense perplexity']:.2f}"),
        (
            "the reference's pipeline: 8,000 masks, 80,000 surrogate masks",
            f"{part['reference seconds in all, multiplied']:,.0f} (extrapolated)",
            "",
            "",
        ),
        (
            "shapcut, from loading to the plan",
            f"{part['ours seconds, from loading to the plan']:,.0f}",
            str(part["ours removed"]),
            f"{part['ours perplexity']:.2f}",
        ),
    ]
    if quality is not None:
        masks = f"the paper's method, {quality['masks']:,} masks of {quality['windows']} windows run"
        rows.insert(2, (masks, "", str(quality["removed"]), f"{quality['perplexity']:.2f}"))
    lines = [
        f"{content['model']}; {len(part['ours removed'])} blocks removed; {content['text'].partition(',')[0]}, "
        f"calibration on its first three quarters, held out the last; {_where(part)}. "
        "`python benchmarks/speed.py --text wikitext2/valid.txt plan paper`.",
        "",
        "| approach | seconds | removed | held-out perplexity |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        f"Speedup: {part['times faster']:.0f}. shapcut had a budget of {part['ours coalitions at most']} coalitions "
        f"on {part['ours windows a coalition']} windows of {LENGTH} tokens, and its default finals. The reference's cost is "
        f"extrapolated to its published sizes from measured {part['reference seconds a mask']:.2f} s per mask and "
        f"{part['reference surrogate seconds a mask'] * 1e3:.1f} ms of surrogate calls per surrogate mask.",
    ]
    return "\n".join(lines)


def speed_growth(content: dict[str, Any]) -> str:
    """Seconds against the number of coalitions, tokens and layers."""
    part = content["growth"]
    lines = ["| | seconds | seconds over the first row's | size over the first row's |", "|---|---|---|---|"]
    for what, points in part["curves"].items():
        size, took = points[0]
        lines += [
            f"| {n:,} {what} | {value:.1f} | {value / took:.2f} | {n / size:.2f} |" for n, value in points
        ]
    slopes = ", ".join(f"{what} {_slope(points):.2f}" for what, points in part["curves"].items())
    about = f"Medians of {part['turns']} turns. {_where(part)}."
    lines += ["", f"Slopes of the seconds over the size, both as logarithms: {slopes}. {about}"]
    return "\n".join(lines)


def _slope(points: list[list[float]]) -> float:
    sizes, took = np.log(points).T
    return float(np.polyfit(sizes, took, 1)[0])


def growth(content: dict[str, Any]) -> str:
    """Processor seconds of the surrogate, a round of the search and the report at each size."""
    by_coalitions, by_players = content["by coalitions"], content["by players"]
    lines = [
        "| coalitions | players | fit, seconds | a round of search, seconds | report, seconds | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in (*by_coalitions["rows"], *by_players["rows"], *content["largest"]):
        cells = [f"{row['coalitions']:,}", str(row["players"])]
        cells += [f"{row[step]:.2f}" for step in ("fit", "round", "report")]
        lines.append(f"| {' | '.join(cells)} | {row['peak MiB']:,} |")
    slopes = [
        f"by {name}, fit {part['slopes']['fit']:.2f}, round {part['slopes']['round']:.2f}, "
        f"report {part['slopes']['report']:.2f}"
        for name, part in (("coalitions", by_coalitions), ("players", by_players))
    ]
    lines += [
        "",
        f"Slopes over the size, both as logarithms: {'; '.join(slopes)}. {content['hardware']}, numpy {content['numpy']}, "
        f"scipy {content['scipy']}, seed {content['seed']}. `{content['command']}`.",
    ]
    if content.get("before"):
        ratios = (
            f"{row['coalitions']:,}: {row['fit']['times faster']:.1f} and {row['round']['times faster']:.1f}"
            for row in content["before"]
        )
        lines += [
            "",
            "Times faster than the version that always used matrices of n coalitions and predicted each swap, fit and "
            f"round, by coalitions: {'; '.join(ratios)}. {content['before_hardware']}.",
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
            "(-9: killed for lack of memory).",
        ]
    )
