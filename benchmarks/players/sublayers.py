"""Blocks against attention and MLPs of SmolLM2 at equal parameters, each plain and compensated.

    python benchmarks/players/sublayers.py --runs RUNS --judge-on wikitext2/valid.txt

``block`` removes whole blocks, ``shift`` MLPs with the attention behind each, ``plain`` the parts of blocks
that a checkpoint without code of its own can lack (blocks, such pairs, MLPs alone), and ``remote-code`` any
parts. Each has the default estimator and selector and the same budget. Each cut frees at least the
parameters of that many blocks. The cache is measured in the cut model, after a prompt, and so are the
parameters. A second start goes on where the first one stopped.
"""

import argparse
import copy
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.estimators.base import EstimationProblem
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player
from shapcut.game.kinds import Kind, KindGame
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.measurement.perplexity import PerplexityResult, perplexity
from shapcut.measurement.player_cache import player_caches
from shapcut.pipeline.session import Session, prepare
from shapcut.recipe.recipe import make_recipe
from shapcut.selection.targets import select_for, target_of_kind
from shapcut.steps.step import StepContext
from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parents[1] / "results" / "players_sublayers.json"
MODEL = "demo:smollm2-135m"
BLOCKS = (3, 6, 10)
KINDS: Mapping[str, Mapping[str, str]] = {
    "block": {"granularity": "block"},
    "shift": {"granularity": "sublayer"},
    "plain": {"granularity": "sublayer"},
    "remote-code": {"granularity": "sublayer", "form": "remote-code"},
}
STEPS = ("none", "compensate")
BUDGET, SEED = 200, 0
WINDOWS, LENGTH, FINAL_WINDOWS, HELD_OUT = 16, 128, 32, 48
PROMPT = 1024


def session_of(kind: str, model: str, judge_on: Sequence[str]) -> Session:
    """The loaded model, its texts and a target for each number of blocks."""
    host = build_host()
    options: dict[str, Any] = {"model": model, "samples": 1, "finalist_samples": 0, "held_out_samples": 1}
    whole = prepare(make_recipe(options), host, target=False).game
    total = sum(weight.numel() for weight in whole.model.parameters())
    block = whole.players[0].parameters
    options |= {
        **KINDS[kind],
        "parameters": ",".join(str(total - number * block) for number in BLOCKS),
        "budget": BUDGET,
        "samples": WINDOWS,
        "sequence_length": LENGTH,
        "finalist_samples": FINAL_WINDOWS,
        "held_out_samples": HELD_OUT,
        "judge_on": ["general", *judge_on],
        "seed": SEED,
    }
    return prepare(make_recipe(options), host, target=True)


def shifts_of(players: Sequence[Player]) -> Kind:
    """Pairs of an MLP and the attention behind it."""
    pairs = [pair for pair in pairwise(players) if [each.kind for each in pair] == ["mlp", "attention"]]
    shifts = [
        Player(number, f"{mlp.name}, {attention.name}", "block", mlp.parameters + attention.parameters)
        for number, (mlp, attention) in enumerate(pairs)
    ]
    return Kind("block", tuple(shifts), tuple((mlp.index, attention.index) for mlp, attention in pairs))


def chosen(session: Session, kind: Kind | None = None) -> list[RemovalPlan]:
    """What is removed for each target; of one kind alone if it is given."""
    budgeted, rng = BudgetedGame(session.game, BUDGET), np.random.default_rng(SEED)
    game, targets, finals = budgeted, session.targets, session.finals
    if kind is not None:
        game = KindGame(budgeted, kind)
        targets = [target_of_kind(target, kind) for target in targets]
        finals = [KindGame(final, kind) for final in finals]
    n_remove = max(target.typical_size() for target in targets)
    problem = EstimationProblem(game, BUDGET, rng, n_remove, partial(first_evidence, game))
    contributions = session.parts.estimator.estimate(problem)
    plans = []
    for left, target in zip(range(len(targets), 0, -1), targets, strict=True):
        plan = select_for(
            session.parts.selector,
            contributions,
            target,
            game=game,
            budget=budgeted.remaining // left,
            finals=finals,
            rng=rng,
        )
        removed = plan.removed if kind is None else kind.whole_set(plan.removed)
        plans.append(RemovalPlan.removing(removed, session.game.n_players, **_how(session, removed)))
    return plans


def _how(session: Session, removed: Sequence[int]) -> dict[str, Any]:
    return {"granularity": session.game.granularity, "form": session.game.form_of(removed)}


def texts_of(session: Session) -> dict[str, Tensor]:
    """Held-out windows of each text."""
    texts = (session.held_out, *session.others)
    return {_name(text.source): text.input_ids for text in texts}


def _name(source: str) -> str:
    path = Path(source)
    return path.parent.name or source if path.suffix == ".txt" else path.stem


def cut(session: Session, plan: RemovalPlan) -> nn.Module:
    """The model without the players of a plan."""
    game = session.game
    return game.adapter.remove_as(copy.deepcopy(game.model), plan.removed, plan.granularity, plan.form)


def compensated(session: Session, plan: RemovalPlan, model: nn.Module) -> dict[str, Any]:
    """Run the step on a cut model; what it says of itself."""
    with tempfile.TemporaryDirectory() as directory:
        context = StepContext(
            adapter=session.adapter,
            plan=plan,
            calibration=session.game.input_ids,
            tokenizer=session.opened.tokenizer,
            directory=Path(directory),
            seed=SEED,
            original=lambda: session.game.model,
            windows=session.text.whole,
            texts=session.text.by_source,
        )
        build_host().postprocessors.create("compensate").run(model, context)
        report = json.loads((Path(directory) / "compensation.json").read_text())
    return {"fitted_tokens": report["tokens"], "scale": report["scale"]}


def judged(session: Session, model: nn.Module, texts: Mapping[str, Tensor]) -> dict[str, PerplexityResult]:
    return {name: perplexity(session.adapter, model, windows) for name, windows in texts.items()}


def size_of(session: Session, model: nn.Module) -> dict[str, int]:
    """Parameters, and bytes of the cache after the prompt."""
    adapter = session.adapter
    caches = player_caches(adapter, model, adapter.players(model), length=PROMPT)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "cache": caches.total}


def rows_of(kind: str, model: str, judge_on: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each number of blocks' worth and each treatment of the cut, and one of the whole model."""
    session = session_of(kind, model, judge_on)
    session.game.model.float()
    texts = texts_of(session)
    whole = judged(session, session.game.model, texts)
    rows = [_row("whole", 0, "none", whole, size_of(session, session.game.model))]
    plans = chosen(session, shifts_of(session.game.players) if kind == "shift" else None)
    for blocks, plan in zip(BLOCKS, plans, strict=True):
        small = cut(session, plan)
        facts = size_of(session, small) | {"removed": list(plan.removed), "what": _what(session, plan)}
        for step in STEPS:
            if step == "compensate":
                facts |= compensated(session, plan, small)
            rows.append(_row(kind, blocks, step, judged(session, small, texts), facts))
            print(
                kind,
                blocks,
                step,
                {name: result["perplexity"] for name, result in rows[-1]["judged"].items()},
            )
    return rows


def _what(session: Session, plan: RemovalPlan) -> str:
    """How many parts of each kind are gone, and how many blocks with all their parts."""
    kinds = [session.game.players[player].kind for player in plan.removed]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())


def _row(
    kind: str,
    blocks: int,
    step: str,
    found: Mapping[str, PerplexityResult],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    results = {name: result.model_dump(mode="json") for name, result in found.items()}
    return {"kind": kind, "blocks": blocks, "after": step, "judged": results, **facts}


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the change against the cut of blocks after the same step, over paired windows."""
    results = [
        {name: PerplexityResult.model_validate(each) for name, each in row["judged"].items()} for row in rows
    ]
    of_blocks = {
        (row["blocks"], row["after"]): result
        for row, result in zip(rows, results, strict=True)
        if row["kind"] == "block"
    }
    found = []
    for row, result in zip(rows, results, strict=True):
        texts: dict[str, Any] = {}
        for name, each in result.items():
            texts[name] = {"perplexity": round(each.perplexity, 3)}
            if row["kind"] not in {"whole", "block"}:
                ratio = each.ratio_to(of_blocks[row["blocks"], row["after"]][name])
                texts[name]["change"] = None if ratio is None else ratio.to_json()
        found.append({**row, "judged": texts})
    return found


def main() -> None:
    """Measure what the runs lack, then write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("sublayer-runs"))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--judge-on", nargs="*", default=[], help="further texts")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    given.runs.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        place = given.runs / f"{kind}.json"
        if not place.exists():
            write_json_atomically(place, rows_of(kind, given.model, given.judge_on))
        found = json.loads(place.read_text())
        rows += found[1:] if rows else found
    content = {
        "command": "python benchmarks/players/sublayers.py",
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "model": given.model,
        "budget": BUDGET,
        "seed": SEED,
        "calibration": {"windows": WINDOWS, "length": LENGTH, "further_windows": FINAL_WINDOWS},
        "held_out_windows": HELD_OUT,
        "prompt": PROMPT,
        "rows": compared(rows),
    }
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
