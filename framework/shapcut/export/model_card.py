"""The README.md of a pruned checkpoint or GGUF file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shapcut.data.mixture import text_shares
from shapcut.data.text import BUILT_IN_NAMES, HUB_PREFIX
from shapcut.data.windows import Calibration
from shapcut.game.interval import Ratio
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.measurement.paired_accuracy import paired_differences
from shapcut.measurement.perplexity import PerplexityResult
from shapcut.measurement.record import ModelMeasurement, changes, paired_texts
from shapcut.measurement.writing import WritingComparison
from shapcut.models.gguf_header import STRING, read_gguf_header
from shapcut.support.digits import apart
from shapcut.support.plain_yaml import load_plain_yaml

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LICENSE_FIELDS = ("license", "license_name", "license_link")
_MOST_POINTS = 11
_LONGEST_CARD = 1 << 20
_PRUNED = {"block": "layer", "sublayer": "layer", "expert": "expert", "mixed": "layer"}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!])")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """The facts that a model card states.

    Attributes:
        name: name of the pruned model.
        base_model: hub id of the original, named in the front matter; a local name appears in the text only.
        revision: commit of the original on the hub, or None.
        writing: what both models write, or None.
        plan: the removal plan.
        calibration: the calibration text.
        held_out: the held-out text.
        others: other texts that both models were judged on.
        before: figures of the original.
        after: figures of the pruned model.
        command: the command that made it.
        library: the distribution that loads it.
        usage: code that loads it.
        usage_language: of that code.
        hints: a section on how other tools make the same cut, or empty.
        steps: post-pruning steps, in order.
        curves: learning curves of steps that train, by step.
        quantized: whether one of them quantized the weights.
        form: what to know of the checkpoint's form, or empty.
        license_fields: the original's, as `license_of` finds them; empty if unknown.
    """

    name: str
    base_model: str
    plan: RemovalPlan
    calibration: Calibration
    held_out: Calibration
    before: ModelMeasurement
    after: ModelMeasurement
    command: str
    library: str
    usage: str
    usage_language: str = "python"
    hints: str = ""
    steps: Sequence[str] = ()
    quantized: bool = False
    license_fields: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    form: str = ""
    writing: WritingComparison | None = None
    others: Sequence[Calibration] = ()
    curves: Mapping[str, LearningCurve] = field(default_factory=dict)


def render_card(facts: CardFacts) -> str:
    """A model card in Markdown with the hub's YAML front matter."""
    plan, before, after = facts.plan, facts.before, facts.after
    players = len(plan.removed) + len(plan.kept)
    what = plan.what
    lines = plan.listed()
    removed = "".join(f"\n  - {line}" for line in lines) if plan.layers else f" {lines[0]}"
    share = 1 - after.parameters / before.parameters
    return f"""---
{yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)}---

# {_text(facts.name)}

{_original(facts)} with {len(plan.removed)} of its {players} {what} removed by shapcut.

| | original | this model |
|---|---|---|
| {what} | {players} | {len(plan.kept)} |
| parameters | {before.parameters:,} | {after.parameters:,} ({share:.1%} fewer) |
| perplexity, held-out text | {_perplexities(before, after)} |
{_rows_of_other_texts(before, after)}{_cache_rows(before, after)}
- Removed {what} (counted from 0, of the original):{removed}
{_form_line(facts)}- Method: {_text(plan.method or "not stated")}
- Utility: {_text(plan.utility or "not stated")}
- Calibration text: {_described(facts.calibration)}
- Held-out text (a later part of the same source, never used for the choice): {_judged_on(facts)}
- After the cut: {_text(", then ".join(facts.steps) or "nothing; no weight was changed")}
- Command:

{_code(facts.command)}

The perplexities compare the two models on one text; they are not comparable with figures made on other text,
with another sequence length or another tokenizer. The interval of the change is a 95 % t interval over paired
windows.
{_accuracy(before, after)}{_training(facts.curves)}{_writing(facts.writing)}
## Use

```{facts.usage_language}
{facts.usage.rstrip()}
```
{facts.hints}"""


def _perplexities(before: ModelMeasurement, after: ModelMeasurement) -> str:
    """Both perplexities as two cells, the second with the interval of the change."""
    ratio = changes(before, after).get("perplexity.perplexity")
    return _compared(before.perplexity, after.perplexity, ratio)


def _rows_of_other_texts(before: ModelMeasurement, after: ModelMeasurement) -> str:
    """A row for each other text."""
    found = changes(before, after)
    return "".join(
        f"| perplexity, {_text(last.source)} | "
        f"{_compared(first.perplexity, last.perplexity, found.get(last.figure))} |\n"
        for first, last in paired_texts(before, after)
    )


def _compared(before: PerplexityResult, after: PerplexityResult, ratio: Ratio | None) -> str:
    cells = apart([each.perplexity for each in (before, after)], "{:.3f}")
    if ratio is not None and ratio.interval is not None:
        cells[1] += f" ({ratio.change()}{'' if ratio.told_apart else '; not told apart'})"
    return " | ".join(cells)


def _cache_rows(before: ModelMeasurement, after: ModelMeasurement) -> str:
    """A row for each length after which both caches were measured."""
    if before.caches is None or after.caches is None:
        return ""
    left = dict(zip(after.caches.lengths, after.caches.sizes, strict=True))
    return "".join(
        f"| bytes of cache after {length:,} tokens | {size:,} | {left[length]:,} |\n"
        for length, size in zip(before.caches.lengths, before.caches.sizes, strict=True)
        if length in left
    )


def _judged_on(facts: CardFacts) -> str:
    """The held-out text, then a line for each other text."""
    others = [f"\n- Other text, its last quarter: {_described(each)}" for each in facts.others]
    return _described(facts.held_out) + "".join(others)


def _form_line(facts: CardFacts) -> str:
    return f"- Form: {_text(facts.form)}\n" if facts.form else ""


def _accuracy(before: ModelMeasurement, after: ModelMeasurement) -> str:
    """A section on tasks that both models were asked; empty without."""
    rows = [
        f"| {_text(each.task)} | {_text(each.metric)} | {each.questions:,} | {each.before:.1%} | "
        f"{each.after:.1%} | {100 * each.difference:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f}) |"
        for each in paired_differences(before.tasks, after.tasks)
    ]
    if not rows:
        return ""
    table = "\n".join(rows)
    return f"""
## Accuracy

| task | metric | questions | original | this model | difference in points |
|---|---|---|---|---|---|
{table}

Tasks of lm-evaluation-harness, both models on the same questions; in brackets the 95 % interval of the paired
difference.
"""


def _training(curves: Mapping[str, LearningCurve]) -> str:
    """A section with the losses of each training; empty without."""
    return "".join(
        f"""
## Training

{_text(step)}, in nats a token. Training: {_text(curve.loss)}, the mean since the row before. Others:
next-token loss on text held back.{"" if curve.kept else " The trained weights were not kept."}

| step | training |{"".join(f" {_text(text)} |" for text in curve.texts)}
|---|---|{"---|" * len(curve.texts)}
{_losses(curve)}
"""
        for step, curve in curves.items()
    )


def _losses(curve: LearningCurve) -> str:
    """A row for each point of a curve, thinned out."""
    return "\n".join(
        f"| {point.step:,} | {_nats(point.loss)} |"
        + "".join(f" {_nats(point.held_back.get(text))} |" for text in curve.texts)
        for point in curve.thinned(_MOST_POINTS)
    )


def _nats(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _writing(writing: WritingComparison | None) -> str:
    """A section with continuations and the texts that got worse; empty without."""
    if writing is None:
        return ""
    continued = [
        f"- {_text(each.prompt)}\n    - original: {_text(each.dense)}\n    - this model: {_text(each.pruned)}"
        for each in writing.continuations
    ]
    worse = [
        f"- {each.dense_nats:.2f} to {each.pruned_nats:.2f} nats a token: {_text(each.text)}"
        for each in writing.worse
    ]
    grew = f"The loss grew on {writing.grew} of {writing.windows} held-out texts"
    return "\n".join(
        [
            "\n## What it writes\n\nGreedy continuations of held-out text:\n",
            *continued,
            f"\n{grew}{', most on:' if worse else '.'}\n",
            *(worse if not worse else [*worse, ""]),
        ]
    )


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    relation = "quantized" if facts.quantized else "finetune"  # the hub knows no relation for a cut
    derived: dict[str, Any] = {}
    if _is_hub_id(facts.base_model):
        derived = {"base_model": facts.base_model, "base_model_relation": relation}
    return {
        **derived,
        **facts.license_fields,
        "library_name": facts.library,
        "pipeline_tag": "text-generation",
        "tags": ["shapcut", "pruned", f"{_PRUNED[facts.plan.granularity]}-pruning"],
        **_data_sets(facts.calibration),
        "metrics": ["perplexity"],
        **_model_index(facts.name, facts.held_out, facts.after.perplexity),
    }


def license_of(checkpoint: Path | None) -> dict[str, str]:
    """The license fields of the README.md in a checkpoint's directory; empty if there are none.

    Another author wrote the file, so a malformed one is ignored.
    """
    card = checkpoint / "README.md" if checkpoint is not None and checkpoint.is_dir() else None
    try:
        if card is None or not card.is_file():
            return {}
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST_CARD)
        parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.M)
        if len(parts) < 3 or parts[0].strip():  # noqa: PLR2004 - nothing, the metadata, the text
            return {}
        fields = load_plain_yaml(parts[1])
    except (OSError, ValueError):
        return {}
    known = fields if isinstance(fields, dict) else {}
    return {key: known[key] for key in _LICENSE_FIELDS if isinstance(known.get(key), str)}


def license_in_gguf(file: Path) -> dict[str, str]:
    """The license fields that a GGUF file states; empty if it states none."""
    stated = read_gguf_header(file).by_name
    names = {"license": "general.license", "license_name": "general.license.name"}
    names |= {"license_link": "general.license.link"}
    found = {field: stated[key] for field, key in names.items() if key in stated}
    return {field: entry.value for field, entry in found.items() if entry.kind == STRING}


def _original(facts: CardFacts) -> str:
    at = "" if facts.revision is None else f" (revision {_text(facts.revision)})"
    return f"{_text(facts.base_model)}{at}"


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None


def _hub_data_set(source: str) -> tuple[str, str | None] | None:
    """Id and configuration of the hub data set that a text comes from, or None."""
    name, _, config = source.removeprefix(HUB_PREFIX).partition(":")
    is_one = source.startswith(HUB_PREFIX) and _DATA_SET.fullmatch(name)
    return (name, config or None) if is_one else None


def _data_sets(calibration: Calibration) -> dict[str, Any]:
    found = [_hub_data_set(share.source) for share in text_shares(calibration.source)]
    names = [one[0] for one in found if one is not None]
    return {"datasets": names} if names else {}


def _model_index(name: str, held_out: Calibration, after: PerplexityResult) -> dict[str, Any]:
    """The perplexity as an evaluation result; empty for private text or an infinite perplexity."""
    found = _hub_data_set(held_out.source)
    if not after.finite or (found is None and held_out.source not in BUILT_IN_NAMES):
        return {}
    text: dict[str, Any] = {
        "type": f"shapcut-{held_out.source}",
        "name": BUILT_IN_NAMES.get(held_out.source),
    }
    if found is not None:
        text = {"type": found[0], "name": found[0], "split": "train"}
        text |= {} if found[1] is None else {"config": found[1]}
    protocol = {
        "sequence_length": held_out.sequence_length,
        "windows": held_out.samples,
        "adds_bos": held_out.adds_bos,
        "part": "held out from the calibration text",
    }
    metric = {
        "type": "perplexity",
        "name": "perplexity",
        "value": round(after.perplexity, 4),
        "args": protocol,
    }
    result = {"task": {"type": "text-generation"}, "dataset": text, "metrics": [metric]}
    return {"model-index": [{"name": name, "results": [result]}]}


def _described(text: Calibration) -> str:
    bos = "a BOS token first in each" if text.adds_bos else "no BOS token added"
    return (
        f"{_text(text.source)}, {text.samples} sequences of {text.sequence_length} tokens, each read on its "
        f"own, {bos}; SHA-256 of the token ids {text.fingerprint[:16]}"
    )


def _text(value: str) -> str:
    """A name as one line of escaped Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def _code(command: str) -> str:
    """An indented code block, because the command could close a fence."""
    return "\n".join(f"      {line}" for line in command.splitlines())
