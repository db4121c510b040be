"""The same cut with other tools, for the model card."""

from itertools import pairwise

import yaml
from torch import nn

from shapcut.game.plan import RemovalPlan
from shapcut.models.adapter import Adapter

_SECTION = """
## The same cut of the original by other tools

Only the cut: what steps did to the weights after it is in this checkpoint only.
"""

_LLAMA_CPP = """
llama.cpp, from a GGUF file of the original:

```
llama-quantize --prune-layers {removed} original.gguf pruned.gguf Q4_K_M
```
"""
"""It rewrites the number of blocks only, and leaves arrays and periods as they are."""


def kept_ranges(plan: RemovalPlan) -> list[tuple[int, int]]:
    """The kept blocks as half-open ranges of neighbours."""
    starts = [new for old, new in pairwise((-2, *plan.kept)) if new != old + 1]
    ends = [old + 1 for old, new in pairwise((*plan.kept, -2)) if new != old + 1]
    return list(zip(starts, ends, strict=True))


def mergekit_recipe(plan: RemovalPlan, model: str, dtype: str) -> str:
    """A mergekit configuration that copies the kept blocks, as YAML.

    Args:
        plan: with whole blocks as players.
        model: hub id or path of the original.
        dtype: number format of the result, as torch names it.
    """
    slices = [
        {"sources": [{"model": model, "layer_range": [start, end]}]} for start, end in kept_ranges(plan)
    ]
    content = {"slices": slices, "merge_method": "passthrough", "dtype": dtype}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def export_hints(adapter: Adapter, model: nn.Module, plan: RemovalPlan, name: str) -> str:
    """A Markdown section with the same cut in llama.cpp and mergekit; empty if they cannot make it.

    Args:
        adapter: the model's adapter.
        model: the uncut original.
        plan: the removal.
        name: hub id or path of the original.
    """
    if plan.granularity != "block" or not plan.removed or not adapter.has_plain_blocks(model):
        return ""
    llama_cpp = _LLAMA_CPP.format(removed=",".join(str(block) for block in plan.removed))
    if name.lower().endswith(".gguf"):  # which mergekit does not read
        return _SECTION + llama_cpp
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return f"""{_SECTION}{llama_cpp}
mergekit, with `mergekit-yaml`:

```yaml
{mergekit_recipe(plan, name, dtype).rstrip()}
```
"""
