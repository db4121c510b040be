"""The README.md of a pruned checkpoint."""

import re

import yaml

from shapcut.calibration import Calibration
from shapcut.perplexity import PerplexityResult
from shapcut.plan import RemovalPlan

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def render_card(
    *,
    name: str,
    base_model: str,
    plan: RemovalPlan,
    calibration: Calibration,
    held_out: Calibration,
    before: PerplexityResult,
    after: PerplexityResult,
    parameters_before: int,
    parameters_after: int,
    command: str,
    library: str,
    usage: str,
    hints: str = "",
) -> str:
    """A model card in Markdown with the hub's YAML front matter.

    Args:
        name: of the pruned model.
        base_model: hub id of the original, named in the front matter; a local name appears in the text only.
        plan: what was removed.
        calibration: the text that the choice was made on.
        held_out: the text that both perplexities are of.
        before: perplexity of the original.
        after: perplexity of the pruned model.
        parameters_before: number of parameters of the original.
        parameters_after: number of parameters of the pruned model.
        command: how it was made.
        library: the distribution that loads it.
        usage: Python code that loads it.
        hints: a section on how other tools make the same cut, if they can.
    """
    players = len(plan.removed) + len(plan.kept)
    what = "blocks" if plan.granularity == "block" else "sublayers"
    removed = ", ".join(str(player) for player in plan.removed) or "none"
    share = 1 - parameters_after / parameters_before
    return f"""---
{_front_matter(base_model, library)}---

# {_text(name)}

{_text(base_model)} with {len(plan.removed)} of its {players} {what} removed by shapcut.

| | original | this model |
|---|---|---|
| {what} | {players} | {len(plan.kept)} |
| parameters | {parameters_before:,} | {parameters_after:,} ({share:.1%} fewer) |
| perplexity, held-out text | {before.perplexity:.3f} | {after.perplexity:.3f} |

- Removed {what} (counted from 0, of the original): {removed}
- Method: {_text(plan.method or "not stated")}
- Utility: {_text(plan.utility or "not stated")}
- Calibration text: {_described(calibration)}
- Held-out text (a later part of the same source, never used for the choice): {_described(held_out)}
- Command:

{_code(command)}

The perplexities compare the two models on one text; they are not comparable with figures made on other text,
with another sequence length or another tokenizer.

## Use

```python
{usage.rstrip()}
```
{hints}"""


def _front_matter(base_model: str, library: str) -> str:
    fields: dict[str, object] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["shapcut", "pruned", "layer-pruning"],
    }
    if _HUB_ID.fullmatch(base_model):
        fields = {"base_model": base_model} | fields
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _described(text: Calibration) -> str:
    bos = "a BOS token first in each" if text.adds_bos else "no BOS token added"
    return (
        f"{_text(text.source)}, {text.samples} sequences of {text.sequence_length} tokens, each read on its "
        f"own, {bos}; SHA-256 of the token ids {text.fingerprint[:16]}"
    )


def _text(value: str) -> str:
    """A name as one line of Markdown text, whatever characters it holds."""
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def _code(command: str) -> str:
    """A code block; indented, because a fence could be closed by what the command holds."""
    return "\n".join(f"      {line}" for line in command.splitlines())
