"""The tables of `benchmarks/serving`."""

from typing import Any


def gguf(content: dict[str, Any]) -> str:
    """What a cut of GGUF files costs, and what llama.cpp makes of them."""
    lines = [
        "| file | blocks | MB | seconds (a copy) | memory | tensors equal | perplexity in transformers | in llama.cpp | tokens/s decoding | tokens/s reading |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["models"]:
        sizes, seconds, speed = row["bytes"], row["seconds"], row["tokens a second in llama.cpp"]
        engines = row["perplexity"]
        cells = [
            f"`{row['model']}`",
            f"{row['blocks']} → {row['blocks'] - len(row['removed'])}",
            f"{sizes['whole'] / 1e6:.1f} → {sizes['cut'] / 1e6:.1f}",
            f"{seconds['cut and comparison']:.1f} ({seconds['copy']:.1f})",
            f"{row['memory of the cut in bytes'] / 1e6:.0f} MB",
            row["tensors equal byte for byte"],
            *(
                f"{engines[name]['whole']:.3f} → {engines[name]['cut']:.3f}"
                for name in ("transformers", "llama.cpp")
            ),
            *(f"{speed['whole'][kind]:.1f} → {speed['cut'][kind]:.1f}" for kind in ("decode", "prompt")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    about = f"{content['text']}; {content['hardware']}; {versions}"
    return "\n".join([*lines, "", f"`benchmarks/serving/{content['command']}`, {about}."])


def engines(content: dict[str, Any]) -> str:
    """What engines make of pruned models, beside the uncut ones."""
    lines = [
        "| model | engine | format | difference, whole → cut | greedy tokens, whole; cut | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        sides = (row["original"], row["cut"])
        cells = [
            row["label"],
            row["engine"],
            row["dtype"],
            " → ".join(map(_engine_difference, sides)),
            "; ".join(map(_engine_tokens, sides)),
            row["sentence"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    engines = {f"{row['engine']} {row['version']}": None for row in content["rows"] if row["version"]}
    versions = ", ".join([*engines, *(f"{name} {value}" for name, value in content["versions"].items())])
    return "\n".join(
        [*lines, "", f"{content['hardware']}; {versions}. The machine was busy with other work."]
    )


def _engine_difference(side: dict[str, Any]) -> str:
    agreement = side["agreement"]
    if agreement is None:
        return "refused"
    return f"{max(float(agreement['prompt_difference']), float(agreement['decoding_difference'])):.0e}"


def _engine_tokens(side: dict[str, Any]) -> str:
    agreement = side["agreement"]
    if agreement is None:
        return "-"
    gaps = [divergence["gap"] for divergence in agreement["divergences"]]
    return f"gap {max(gaps):.0e}" if gaps else "equal"
