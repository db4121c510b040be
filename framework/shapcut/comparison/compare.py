"""Compare methods at one budget on one model, by perplexity on held-out text."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shapcut.comparison.contest import Contest, HeldOutGame
from shapcut.comparison.contestants import Contestant
from shapcut.comparison.row import OnOtherText, ResultRow, read_rows, write_rows
from shapcut.comparison.standings import standings, summaries, verdicts
from shapcut.comparison.task_judge import TaskJudge
from shapcut.data.mixture import check_source, identity, text_shares
from shapcut.data.windows import Calibration, check_size, first_windows
from shapcut.game.groups import Groups
from shapcut.game.store import EvaluationStore
from shapcut.game.target import Target
from shapcut.host.host import Host
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.pipeline.manifest import Manifest
from shapcut.pipeline.session import Session, prepare
from shapcut.pipeline.targets import check_target
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.html_table import html_table
from shapcut.support.live_page import live_page
from shapcut.support.progress import Reporter, Silent
from shapcut.support.run_directory import Run, open_run, require_run_directory


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """The text on whose first windows methods are evaluated.

    Attributes:
        source: a text source other than the calibration text.
        samples: number of windows.
        sequence_length: tokens per window.
    """

    source: str
    samples: int
    sequence_length: int

    def check(self, calibration: str) -> None:
        """Check the text before a model is loaded.

        Raises:
            InputError: if the text cannot be read or is the calibration text.
        """
        read = {identity(share.source) for share in text_shares(calibration)}
        if any(identity(share.source) in read for share in text_shares(self.source)):
            raise InputError(
                f"--held-out {self.source} is the calibration text; choose another text, or omit the option "
                "to hold out the last quarter of the calibration text"
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


@dataclass(frozen=True, eq=False, slots=True)
class Judges:
    """What the methods' choices are judged by.

    Attributes:
        text: perplexity on held-out text.
        others: perplexity on other texts.
        tasks: accuracy on tasks, if there are any.
    """

    text: HeldOutGame
    others: tuple[HeldOutGame, ...]
    tasks: TaskJudge

    @classmethod
    def of(cls, session: Session, reporter: Reporter) -> "Judges":
        """The judges that a session asks for."""
        others = tuple(HeldOutGame(session, text) for text in session.others)
        return cls(HeldOutGame(session, session.held_out), others, TaskJudge(session, reporter))

    def judged(self, row: ResultRow) -> ResultRow:
        """The row with all that is measured of its removal."""
        return self.tasks.judged(self._on_other_texts(self.text.judged(row)))

    def _on_other_texts(self, row: ResultRow) -> ResultRow:
        if row.failure:
            return row
        found = tuple(
            OnOtherText(
                source=game.text.source,
                perplexity=game.perplexity(row.removed),
                nats=game.nats(row.removed),
            )
            for game in self.others
        )
        return row.model_copy(update={"other_texts": found})


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        facts: model, text and perplexity of the whole model, as plain data.
        rows: one row per method, number of players to remove, and seed.
    """

    facts: dict[str, Any]
    rows: tuple[ResultRow, ...]

    def _repr_html_(self) -> str:
        rows = [
            (
                row.method,
                row.seed,
                row.failure or ", ".join(map(str, row.removed)),
                "" if row.held_out_perplexity is None else f"{row.held_out_perplexity:.2f}",
                f"{row.tokens:,}",
            )
            for row in self.rows
        ]
        headings = ("method", "seed", "removed", "held-out perplexity", "tokens")
        return html_table(f"methods on {self.facts['model']['source']}", headings, rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        others = [
            {**text, **_ranked([row.on(text["source"]) for row in self.rows])}
            for text in self.facts["other_texts"]
        ]
        return {
            "format_version": 1,
            **self.facts,
            "other_texts": others,
            **_ranked(self.rows),
            "rows": [row.to_json() for row in self.rows],
        }


def _ranked(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Who does best, as plain data."""
    found = standings(rows)
    return {
        "summary": [each.to_json() for each in summaries(found)],
        "verdicts": {str(n_remove): verdict for n_remove, verdict in verdicts(found).items()},
        "standings": [each.to_json() for each in found],
    }


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
    """Run several methods on the same calibration windows and evaluate their choices on held-out text.

    All methods share the measured coalitions, which are stored in the run directory. A resumed comparison
    repeats no stored evaluation and no finished row.

    Args:
        recipe: model, text and budget; its target, estimator and selector are ignored.
        methods: the methods to compare.
        targets: recipes, each with an amount to remove.
        seeds: seeds of the calibration windows and of every method; all methods run once per seed.
        run_directory: directory for evaluations and results.
        host: the plugins.
        held_out: text to evaluate on; None: the last quarter of the calibration text.
        reporter: reports progress.

    Raises:
        InputError: if an argument is invalid, before any evaluation. A method that fails later gets a row
            with the reason.
    """
    for contestant in methods:
        host.estimators.create(contestant.method.estimator)
        host.selectors.create(contestant.method.selector)
    require_run_directory(run_directory)
    if held_out is not None:
        held_out.check(recipe.calibration)
    if "vocabulary" not in recipe.model_fields_set:  # no method shall be judged by another's estimates
        recipe = recipe.model_copy(update={"vocabulary": "whole"})
    session = prepare(recipe, host, target=False, reporter=reporter)
    if held_out is not None:
        session = _judged_on(session, held_out)
    n_groups = len(Groups.of(session.game.players))
    sizes = list(dict.fromkeys(target.n_remove(session.game.n_players, n_groups) for target in targets))
    for size in sizes:
        check_target(Target.count(session.game.players, size), session.game, recipe.seed)
    with (
        open_run(run_directory) as run,
        live_page(run.live, reporter or Silent(), f"comparing methods on {recipe.model}") as page,
        closing(EvaluationStore(run.evaluations)) as store,
    ):
        manifest = Manifest.start(run, session)
        host.manager.hook.shapcut_run_started(run=run)
        judges = Judges.of(session, page)
        comparison = Comparison(_facts(session, judges), ())
        for seed in seeds:
            contest = Contest(session, seed, store, page)
            entries = [(contestant, size) for size in sizes for contestant in methods]
            comparison = _continued(comparison, contest, entries, judges, run)
        manifest.finish()
        host.manager.hook.shapcut_comparison_finished(run=run)
    return comparison


def _judged_on(session: Session, held_out: HeldOutText) -> Session:
    """The session with another held-out text, and other texts beside that one."""
    recipe, tokenizer = session.recipe, session.opened.tokenizer
    question = TextQuestion(
        held_out.source,
        window=recipe.sequence_length,
        windows=recipe.held_out_samples,
        judge_on=recipe.judge_on,
    )
    return replace(session, held_out=held_out.windows(tokenizer), others=question.others(tokenizer))


def _continued(
    comparison: Comparison,
    contest: Contest,
    entries: Sequence[tuple[Contestant, int]],
    judges: Judges,
    run: Run,
) -> Comparison:
    """The comparison with the rows of one seed; writes each row when it is finished."""
    finished = read_rows(run.rows)
    for contestant, size in entries:
        key = _key(contest.identity(contestant, size), comparison.facts, judges)
        row = finished.get(key)
        if row is None or not row.held_out_nats:  # an older version wrote rows without them
            finished[key] = judges.judged(row or contest.row(contestant, size, key))
            write_rows(run.rows, finished.values())
        comparison = replace(comparison, rows=(*comparison.rows, finished[key]))
        write_json_atomically(run.comparison, comparison.to_json())
    return comparison


def _key(identity: dict[str, Any], facts: dict[str, Any], judges: Judges) -> str:
    """A digest of everything that determines a row."""
    asked: list[Any] = [game.text.fingerprint for game in judges.others]
    asked += [] if judges.tasks.identity is None else [judges.tasks.identity]
    content = json.dumps([identity, facts["text"]["held_out_fingerprint"], *asked], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _facts(session: Session, judges: Judges) -> dict[str, Any]:
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
        "dense_held_out_perplexity": judges.text.perplexity(()),
        "other_texts": [
            {
                "source": game.text.source,
                "windows": list(game.text.input_ids.shape),
                "fingerprint": game.text.fingerprint,
                "dense_perplexity": game.perplexity(()),
            }
            for game in judges.others
        ],
        **judges.tasks.facts(),
    }
