"""What compensation, and published ways to mend a cut, do for text of other kinds than they were fitted on.

    python benchmarks/mending.py --models llama --judge-on wikitext2/valid.txt zeroshot/lambada_openai.jsonl
    python benchmarks/mending.py --models smollm2-135m --published ...   # the published ways, two cuts
    python benchmarks/mending.py --models smollm2-135m --fit-on builtin general ...   # each text alone
    python benchmarks/mending.py --models gemma3-270m.Q4_K_M.gguf --removed 4 6 ...

A step is fitted on the first three quarters of the built-in text, and where a row says so of general
text; perplexities are of windows of the last quarters of these and of the texts given. Changes are against
the cut without compensation, with 95 % t intervals over paired windows. Rows that the result file has already
are not measured again.
"""

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from after_the_cut import REAL, REAL_SETS, Subject, greedy_set, step_context, subject
from shapcut.data.windows import load_held_out
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.measurement.perplexity import PerplexityResult, perplexity
from shapcut.pipeline.windows import RunText
from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parent / "results" / "mending.json"
LENGTH, SOURCE = 128, "builtin"
ZOO_REMOVED = 6
PUBLISHED = ("replace-me", "linear-patch", "prune-and-comp", "laco")
NARROW = "compensate:into=mlp,samples=128,trial=false"
"""As before sources were told apart: one text, the MLPs, and what is fitted is kept."""

DEFAULT, EVERYWHERE = "compensate", "compensate:places=all"


def name_of(source: str) -> str:
    """A text's name in the table."""
    return Path(source).parent.name if Path(source).suffix == ".txt" else Path(source).stem


def held_out_texts(sources: Sequence[str], tokenizer: Any, windows: int) -> dict[str, Tensor]:
    """Windows of the last quarters of the built-in and the general text and of these sources, by name."""
    return {
        name_of(source): load_held_out(source, tokenizer, samples=windows, sequence_length=LENGTH).input_ids
        for source in (SOURCE, "general", *sources)
    }


def machine() -> str:
    """Threads, processor and torch."""
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)}, {platform.machine()}, torch {torch.__version__}"


def judged(who: Subject, model: nn.Module, texts: dict[str, Tensor]) -> dict[str, PerplexityResult]:
    return {name: perplexity(who.game.adapter, model, windows) for name, windows in texts.items()}


def mended(
    who: Subject, removed: list[int], spec: str, alone: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The cut model after a step, fitted on one source alone or on two, and what the step says of itself."""
    game = who.game
    plan = RemovalPlan.removing(removed, game.n_players)
    model = game.adapter.remove(copy.deepcopy(game.model), plan.removed)
    text = RunText(alone or SOURCE, who.tokenizer, LENGTH, 0)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        context = step_context(
            game.adapter,
            plan,
            game.model,
            who.tokenizer,
            Path(directory),
            calibration=game.input_ids,
            windows=text.whole,
            texts=None if alone or spec == NARROW else text.by_source,
        )
        outcome = build_host().postprocessors.create(spec).run(model, context)
        report = Path(directory) / "compensation.json"
        said = json.loads(report.read_text()) if report.exists() else {}
    assert isinstance(outcome, nn.Module)
    facts = {name: said[name] for name in ("texts", "tokens", "scale") if name in said}
    return outcome, facts | {"seconds": round(time.monotonic() - begin, 1)}


def row(
    label: str, found: dict[str, PerplexityResult], plain: dict[str, PerplexityResult] | None, **facts: Any
) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for name, result in found.items():
        texts[name] = {"perplexity": round(result.perplexity, 3)}
        ratio = None if plain is None else result.ratio_to(plain[name])
        if ratio is not None:
            texts[name]["change"] = ratio.to_json()
    return {"after": label, "judged": texts, **facts}


def main() -> None:
    """Measure what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["llama", "mamba", "rwkv4", REAL])
    parser.add_argument("--judge-on", nargs="*", default=[], help="further texts")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--windows", type=int, default=48, help="of each text")
    parser.add_argument("--steps", nargs="+", default=[NARROW, DEFAULT, EVERYWHERE])
    parser.add_argument(
        "--removed", type=int, nargs="+", default=[ZOO_REMOVED], help="blocks, by greedy search"
    )
    parser.add_argument("--fit-on", nargs="+", metavar="SOURCE", help="each of these alone")
    parser.add_argument("--published", action="store_true", help="the published ways beside the default")
    given = parser.parse_args()
    steps = (NARROW, DEFAULT, *PUBLISHED) if given.published else given.steps
    rows: list[dict[str, Any]] = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    for name in given.models:
        who = subject(name, "general")  # long enough for the windows of the other benchmark
        who.game.model.float()
        texts = held_out_texts(given.judge_on, who.tokenizer, given.windows)
        for removed in REAL_SETS if name == REAL else [greedy_set(who.game, n) for n in given.removed]:
            key = {"model": who.name, "removed": removed, "windows": given.windows}
            cut = who.game.adapter.remove(copy.deepcopy(who.game.model), tuple(removed))
            plain = judged(who, cut, texts)
            known = {
                each["after"] for each in rows if (each["model"], each["removed"]) == (who.name, removed)
            }
            if "none" not in known:
                whole = judged(who, who.game.model, texts)
                rows += [{**key, **row("whole model", whole, plain)}, {**key, **row("none", plain, None)}]
            for spec, alone in [(spec, alone) for spec in steps for alone in given.fit_on or [None]]:
                label = f"{spec}, fitted on {name_of(alone)}" if alone else spec
                if label in known:
                    continue
                model, facts = mended(who, removed, spec, alone)
                rows.append({**key, **row(label, judged(who, model, texts), plain, **facts)})
                print(rows[-1], flush=True)
                write_json_atomically(given.out, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
