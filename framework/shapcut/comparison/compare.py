"""Several methods at one budget, on one model and one text, judged on text that none of them has seen."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shapcut.comparison.contest import Contest, HeldOutGame
from shapcut.comparison.contestants import Contestant
from shapcut.comparison.row import ResultRow, read_rows, write_rows
from shapcut.data.text import BUILTIN, check_source
from shapcut.data.windows import Calibration, check_size, first_windows
from shapcut.game.store import EvaluationStore
from shapcut.game.target import Target
from shapcut.host.host import Host
from shapcut.pipeline.manifest import Manifest
from shapcut.pipeline.session import Session, prepare
from shapcut.pipeline.targets import check_target
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.progress import Reporter, Silent
from shapcut.support.run_directory import Run, open_run, require_run_directory


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """A text that methods are judged on: its first windows.

    Attributes:
        source: as for calibration text, but another one.
        samples: windows.
        sequence_length: tokens a window.
    """

    source: str
    samples: int
    sequence_length: int

    def check(self, calibration: str) -> None:
        """Refuse, before a model is loaded, what cannot be used.

        Raises:
            InputError: if it cannot be read, or is the calibration text.
        """
        same = self.source == calibration or (
            Path(self.source).exists() and Path(self.source).resolve() == Path(calibration).resolve()
        )
        if same or self.source == BUILTIN == calibration:
            raise InputError(
                f"--held-out {self.source} is the calibration text; leave it out and the last quarter of "
                "that text is held out"
            )
        check_source(self.source)
        check_size(self.samples, self.sequence_length)

    def windows(self, tokenizer: Any) -> Calibration:
        """The first windows of the whole text.

        Raises:
            InputError: if the text is too short.
        """
        return first_windows(
            self.source, tokenizer, samples=self.samples, sequence_length=self.sequence_length
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out.

    Attributes:
        facts: model, text and dense perplexity, as plain data.
        rows: one for each method, number of players to remove and seed.
    """

    facts: dict[str, Any]
    rows: tuple[ResultRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"format_version": 1, **self.facts, "rows": [row.model_dump(mode="json") for row in self.rows]}


def compare(
    recipe: Recipe,
    methods: Sequence[Contestant],
    targets: Sequence[Recipe],
    *,
    seeds: Sequence[int],
    run_directory: Path,
    host: Host,
    held_out: HeldOutText | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Let several methods choose on the same calibration windows, and measure what they chose.

    Coalitions are measured once for all methods and kept in the run directory; a killed comparison started
    again repeats no evaluation that was stored and no row that was written.

    Args:
        recipe: model, text and budget; its target, estimator and selector are not used.
        methods: who takes part.
        targets: recipes of which each says how much to remove.
        seeds: each chooses calibration windows and is every method's source of randomness.
        run_directory: where evaluations and results are kept.
        host: the plugins.
        held_out: what the methods are judged on; None: the last quarter of the calibration text.
        reporter: told what is done.

    Raises:
        InputError: if something asked for is wrong; found before any evaluation. A method that finds only
            later that it cannot work here gets a row that says why.
    """
    for contestant in methods:
        host.estimators.create(contestant.method.estimator)
        host.selectors.create(contestant.method.selector)
    require_run_directory(run_directory)
    if held_out is not None:
        held_out.check(recipe.calibration)
    session = prepare(recipe, host, target=False)
    if held_out is not None:
        session = replace(session, held_out=held_out.windows(session.opened.tokenizer))
    sizes = list(dict.fromkeys(target.n_remove(session.game.n_players) for target in targets))
    for size in sizes:
        check_target(Target.count(session.game.players, size), session.game, recipe.seed)
    with open_run(run_directory) as run, closing(EvaluationStore(run.evaluations)) as store:
        manifest = Manifest.start(run, session)
        host.manager.hook.shapcut_run_started(run=run)
        judge = HeldOutGame(session, store)
        comparison = Comparison(_facts(session, judge), ())
        for seed in seeds:
            contest = Contest(session, seed, store, reporter or Silent())
            entries = [(contestant, size) for size in sizes for contestant in methods]
            comparison = _continued(comparison, contest, entries, judge, run)
        manifest.finish()
        host.manager.hook.shapcut_comparison_finished(run=run)
    return comparison


def _continued(
    comparison: Comparison,
    contest: Contest,
    entries: Sequence[tuple[Contestant, int]],
    judge: HeldOutGame,
    run: Run,
) -> Comparison:
    """The comparison with the rows of one seed, each written when it is known."""
    finished = read_rows(run.rows)
    for contestant, size in entries:
        key = _key(contest.identity(contestant, size), comparison.facts)
        if key not in finished:
            finished[key] = judge.judged(contest.row(contestant, size, key))
            write_rows(run.rows, finished.values())
        comparison = replace(comparison, rows=(*comparison.rows, finished[key]))
        write_json_atomically(run.comparison, comparison.to_json())
    return comparison


def _key(identity: dict[str, Any], facts: dict[str, Any]) -> str:
    """Equal for rows that must come out equal."""
    content = json.dumps([identity, facts["text"]["held_out_fingerprint"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _facts(session: Session, judge: HeldOutGame) -> dict[str, Any]:
    held_out, calibration = session.held_out, session.calibration
    return {
        "model": {
            "source": session.opened.source_name,
            "class": type(session.opened.model).__name__,
            "adapter": session.adapter.name,
            "players": session.game.n_players,
            "granularity": session.recipe.granularity,
            "dtype": str(session.game.dtype).removeprefix("torch."),
        },
        "text": {
            "calibration": calibration.source,
            "calibration_windows": list(calibration.input_ids.shape),
            "finals_windows": [list(part.input_ids.shape) for part in session.finals],
            "held_out": held_out.source,
            "held_out_windows": list(held_out.input_ids.shape),
            "held_out_fingerprint": held_out.fingerprint,
            "adds_bos": calibration.adds_bos,
        },
        "dense_held_out_perplexity": judge.perplexity(()),
    }
