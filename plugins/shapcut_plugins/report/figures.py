"""The table of figures: every measurement of both models, under a readable name."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shapcut.contracts import apart
from shapcut_plugins.report.run_data import Change, number


@dataclass(frozen=True, slots=True)
class Label:
    """The presentation of a figure: name with unit, factor to that unit, and format."""

    text: str
    factor: float = 1.0
    form: str = "{:,.4g}"


LABELS = {
    "perplexity.perplexity": Label("perplexity, held-out text", form="{:,.2f}"),
    "perplexity.nats_per_token": Label("loss (nats a token)", form="{:.4f}"),
    "parameters": Label("parameters", form="{:,.0f}"),
    "weight_bytes": Label("weights in memory (MB)", 1e-6, "{:,.2f}"),
    "checkpoint_bytes": Label("weight files (MB)", 1e-6, "{:,.2f}"),
    "latency.prefill_seconds": Label("prefill: reading the prompt (ms)", 1e3, "{:,.1f}"),
    "latency.decode_seconds": Label("decoding: one further token (ms)", 1e3, "{:,.1f}"),
    "peak_memory_bytes": Label("most memory of the process so far (MB)", 1e-6, "{:,.0f}"),
}
"""Labels by field path, in the order of the table; unlabelled figures follow."""

SETTINGS = {
    "held_out_source": "held-out text",
    "held_out_fingerprint": "SHA-256 of its token ids",
    "perplexity.n_tokens": "predicted tokens",
    "sequence_length": "tokens a window",
    "stride": "tokens by which windows move on",
    "adds_bos": "BOS token first in each window",
    "latency.prompt_tokens": "tokens of the prompt",
    "latency.new_tokens": "decode steps a measurement",
    "latency.repeats": "measurements of latency",
    "latency.batch_size": "sequences at a time",
    "caches.batch_size": "sequences in the cache",
}
"""Fields that describe how the figures were measured."""

_ON_OTHER_TEXT = "perplexity on "
"""How the path of a perplexity on another text begins; the text's name follows."""

_UNITS = {"_seconds": ("(ms)", 1e3), "_bytes": ("(MB)", 1e-6)}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: with the unit.
        values: of the original and of each pruned model, formatted.
        changes: of each pruned model against the original; empty if undefined.
        intervals: 95 % intervals of the changes; empty where there is none.
    """

    name: str
    values: tuple[str, ...]
    changes: tuple[str, ...]
    intervals: tuple[str, ...] = ()


def rows(
    measurements: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Change]] = (),
    *,
    elsewhere: Collection[str] = (),
) -> list[Row]:
    """One row for each figure that any model has.

    Args:
        measurements: plain data of the original and of each pruned model.
        changes: of each pruned model, its uncertain figures over the original's, by path.
        elsewhere: paths of figures that the page shows in another table.
    """
    tables = [dict(_figures(measurement)) for measurement in measurements]
    found = [path for table in tables for path in table]
    others = [path for path in found if path.startswith(_ON_OTHER_TEXT)]
    quality = list(LABELS)[:2]
    paths = dict.fromkeys([*quality, *others, *LABELS, *found])
    left_out = {*SETTINGS, *elsewhere}
    known = [path for path in paths if any(path in table for table in tables) and path not in left_out]
    return [
        _row(path, [table.get(path) for table in tables], [found.get(path) for found in changes])
        for path in known
    ]


def settings(measurement: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of a measurement, as (name, value) texts."""
    found = []
    for path, text in SETTINGS.items():
        value: Any = measurement
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found.append((text, {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"))
    others = [each for each in measurement.get("other_texts", ()) if isinstance(each, Mapping)]
    return found + [
        ("other text, its last quarter", f"{each.get('source')} (SHA-256 {each.get('fingerprint')})")
        for each in others
    ]


def _figures(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(path, figure) of every number, at any depth."""
    if isinstance(content.get("lengths"), list) and isinstance(content.get("sizes"), list):
        for length, size in zip(content["lengths"], content["sizes"], strict=False):
            yield f"cache after {length} tokens_bytes", float(size)
        return
    for key, value in content.items():
        path = f"{prefix}{key}"
        plain = number(value)
        if plain is not None:
            yield path, plain
        elif isinstance(value, Mapping):
            yield from _figures(value, f"{path}.")
        elif isinstance(value, list):
            for task in value:
                if key == "other_texts" and isinstance(task, Mapping):
                    yield from _on_other_text(task)
                elif isinstance(task, Mapping) and isinstance(task.get("metrics"), Mapping):
                    yield from _figures(task["metrics"], f"{task.get('task', key)}: ")


def _on_other_text(content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    read = content.get("perplexity")
    plain = number(read.get("perplexity")) if isinstance(read, Mapping) else None
    if plain is not None:
        yield f"{_ON_OTHER_TEXT}{content.get('source')}", plain


def _label(path: str) -> Label:
    if path in LABELS:
        return LABELS[path]
    if path.startswith(_ON_OTHER_TEXT):
        return Label(f"perplexity, {path.removeprefix(_ON_OTHER_TEXT)}", form="{:,.2f}")
    text, unit, factor = path.rpartition(".")[2] if ": " not in path else path, "", 1.0
    for ending, (name, scale) in _UNITS.items():
        if text.endswith(ending):
            text, unit, factor = text.removesuffix(ending), f" {name}", scale
    return Label(text.replace("_", " ") + unit, factor)


def _row(path: str, figures: Sequence[float | None], uncertain: Sequence[Change | None]) -> Row:
    label = _label(path)
    shown = [None if value is None else value * label.factor for value in figures]
    return Row(
        label.text,
        tuple(apart(shown, label.form, missing="–")),  # noqa: RUF001 - a dash in a table
        tuple(change(figures[0], after) for after in figures[1:]),
        tuple(_interval(found) for found in uncertain),
    )


def _interval(found: Change | None) -> str:
    if found is None or not found.interval:
        return ""
    return found.interval if found.told_apart else f"{found.interval}: not told apart"


def change(before: float | None, after: float | None) -> str:
    """The change in percent; empty if undefined."""
    if not before or after is None or not math.isfinite(after / before):
        return ""
    return "equal" if before == after else f"{after / before - 1.0:+.1%}"
