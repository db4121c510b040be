"""What compensation and healing give back after a cut, and what compensation inside the game adds.

    python benchmarks/after_the_cut.py --text wikitext2/valid.txt
    python benchmarks/after_the_cut.py --models llama mamba

Steps are fitted on the first three quarters of a text; perplexities are of windows of the last quarter, in
the model's own number format. Rows that a result file has already are not measured again.
"""

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.baselines.blind import NoEstimator
from shapcut.baselines.greedy import GreedySelector
from shapcut.data.windows import all_windows, load_calibration, load_held_out
from shapcut.estimators.base import EstimationProblem
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import absent_players, without
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host, checkpoint_formats, select_adapter
from shapcut.measurement.perplexity import perplexity
from shapcut.models.adapter import Adapter
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.selection.base import SelectionProblem
from shapcut.steps.compensated_game import MendedGame
from shapcut.steps.step import StepContext
from shapcut.support.files import write_json_atomically
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import has_fast_bfloat16

HERE = Path(__file__).parent
RESULT = HERE / "results" / "after_the_cut.json"
ZOO = ("llama", "mamba", "mamba2", "rwkv4", "rwkv7")
REAL = "smollm2-135m"
REAL_SETS = ([4, 5, 13, 14, 17, 26], [4, 5, 12, 13, 14, 15, 16, 17, 18, 26])
ZOO_REMOVED = (4, 6)
TREATMENTS = ((), ("compensate",), ("heal",), ("compensate", "heal"))
VARIANTS = tuple(
    (f"compensate:{options}",) for options in ("into=both", "places=all", "into=both,places=all")
)
FINALISTS = 8
FITTED_WINDOWS = 128


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and the texts that it is treated and measured with."""

    name: str
    game: ModelGame
    held_out: Tensor
    text: str
    tokenizer: Any

    def windows(self, length: int) -> Tensor:
        """All windows of the part of the text that is fitted on."""
        return all_windows(self.text, self.tokenizer, length)


def greedy_set(game: Game, n_remove: int) -> list[int]:
    """The players that SLEB's greedy search removes."""
    budget, rng = n_remove * game.n_players, np.random.default_rng(0)
    counted = BudgetedGame(game, budget)
    nothing = NoEstimator().estimate(EstimationProblem(counted, budget, rng))
    plan = GreedySelector().select(
        SelectionProblem(nothing, game.players, n_remove, game=counted, budget=counted.remaining, rng=rng)
    )
    return list(plan.removed)


def subject(name: str, text: str) -> Subject:
    """SmolLM2, a model of the zoo, or any other by its path."""
    host = build_host()
    own = HERE / "zoo" / "models" / name
    source = f"demo:{name}" if name == REAL else str(own if own.is_dir() else name)
    loaded = load(ModelSource.find(source, formats=checkpoint_formats(host)))
    adapter = select_adapter(host, loaded.model)
    samples, length = (80, 256) if name == REAL else (100, 128)
    game = ModelGame(
        adapter.canonicalise(loaded.model),
        adapter,
        load_calibration(text, loaded.tokenizer, samples=16, sequence_length=128).input_ids,
        sampled=name != REAL,  # as the rows of SmolLM2 are measured; the zoo's vocabularies are small
    )
    held_out = load_held_out(text, loaded.tokenizer, samples=samples, sequence_length=length).input_ids
    return Subject(Path(name).name, game, held_out, text, loaded.tokenizer)


def step_context(
    adapter: Adapter,
    plan: RemovalPlan,
    original: nn.Module,
    tokenizer: Any,
    directory: Path,
    **text: Any,
) -> StepContext:
    """What a step is given; ``text`` are the context's ``calibration``, ``windows`` and ``texts``."""
    return StepContext(
        adapter=adapter,
        plan=plan,
        tokenizer=tokenizer,
        directory=directory,
        seed=0,
        original=lambda: original,
        **text,
    )


def treated(who: Subject, removed: list[int], steps: tuple[str, ...], heal: str) -> tuple[nn.Module, float]:
    """The model without blocks after steps, and the seconds that the steps took."""
    host, game = build_host(), who.game
    plan = RemovalPlan.removing(removed, game.n_players)
    model = game.adapter.remove(copy.deepcopy(game.model), plan.removed)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        for step in steps:
            context = step_context(
                game.adapter,
                plan,
                game.model,
                who.tokenizer,
                Path(directory),
                calibration=game.input_ids,
                windows=who.windows,
            )
            spec = f"{step}:{heal}" if step == "heal" and heal else step
            model = host.postprocessors.create(spec).run(model, context)
    return model, time.monotonic() - begin


def measured(who: Subject, model: nn.Module) -> float:
    return perplexity(who.game.adapter, model, who.held_out).perplexity


def rows_of(
    who: Subject, removed: list[int], heal: str, known: set[str], treatments: Sequence[tuple[str, ...]]
) -> Iterator[dict[str, Any]]:
    """A row for each treatment that is not known yet."""
    for steps in treatments:
        named = " + ".join(steps) or "none"
        key = {"model": who.name, "removed": removed, "after": named}
        if json.dumps(key) in known:
            continue
        model, seconds = treated(who, removed, steps, heal)
        options = {"heal": heal} if "heal" in steps else {}
        yield {**key, **options, "perplexity": measured(who, model), "seconds": round(seconds, 1)}


def in_the_game(who: Subject, chosen: list[int]) -> dict[str, Any]:
    """The best of a few sets by its own value, and by its value when mended, on as many tokens; both mended.

    The sets are the best of those one exchange away from ``chosen``. To mend one takes both models through
    the windows that it is fitted on, so its own value is measured on twice as many.
    """
    game, host = who.game, build_host()
    around = [
        sorted({*chosen} - {back} | {gone})
        for back in chosen
        for gone in range(game.n_players)
        if gone not in chosen
    ]
    rows = without(game.n_players, [chosen, *around])
    finalists = rows[np.argsort(-game.values(rows), kind="stable")[:FINALISTS]]
    step = f"compensate:samples={FITTED_WINDOWS}"
    mended = MendedGame(game, [(step, host.postprocessors.create(step))], who.windows, 0)
    samples, length = game.input_ids.shape
    windows = who.windows(length)
    spread = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    plain = game.on(windows[spread[: samples + 2 * FITTED_WINDOWS]])
    sets = [
        list(absent_players(finalists[int(np.argmax(values))]))
        for values in (plain.values(finalists), mended.values(finalists))
    ]
    perplexities = [
        measured(who, treated(who, removed, (step,), "")[0])
        for removed in (sets[:1] if sets[0] == sets[1] else sets)
    ]
    return {
        "model": who.name,
        "n_remove": len(chosen),
        "tokens_a_finalist": plain.input_ids.numel(),
        "chosen_unmended": sets[0],
        "chosen_mended": sets[1],
        "perplexity_chosen_unmended": perplexities[0],
        "perplexity_chosen_mended": perplexities[-1],
    }


def dense(who: Subject) -> dict[str, Any]:
    return {"model": who.name, "removed": [], "after": "none", "perplexity": measured(who, who.game.model)}


def main() -> None:
    """Measure what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", help="for the real model; the zoo is measured on the built-in text")
    parser.add_argument("--models", nargs="+", default=[REAL, *ZOO])
    parser.add_argument("--heal", default="", help="options of the step heal")
    parser.add_argument("--variants", action="store_true", help="other ways to compensate, too")
    parser.add_argument("--quick", action="store_true", help="no training, no game")
    given = parser.parse_args()
    treatments = (TREATMENTS[:2] if given.quick else TREATMENTS) + (VARIANTS if given.variants else ())
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": [], "in_the_game": []}
    fast = "yes" if has_fast_bfloat16(torch.device("cpu")) else "no"
    content |= {
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}, bfloat16 in hardware: {fast}",
        "torch": torch.__version__,
    }
    for name in given.models:
        if name == REAL and not given.text:
            parser.error(f"--text is needed for {REAL}")
        who = subject(name, given.text if name == REAL else "builtin")
        known = {json.dumps({k: row[k] for k in ("model", "removed", "after")}) for row in content["rows"]}
        if json.dumps({"model": name, "removed": [], "after": "none"}) not in known:
            content["rows"].append(dense(who))
        sets = REAL_SETS if name == REAL else [greedy_set(who.game, number) for number in ZOO_REMOVED]
        for removed in sets:
            for row in rows_of(who, list(removed), given.heal, known, treatments):
                print(row, flush=True)
                content["rows"].append(row)
                write_json_atomically(RESULT, content)
        done = {(row["model"], row["n_remove"]) for row in content["in_the_game"]}
        for removed in () if given.quick else sets:
            if (name, len(removed)) not in done:
                content["in_the_game"].append(in_the_game(who, list(removed)))
                print(content["in_the_game"][-1], flush=True)
                write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
