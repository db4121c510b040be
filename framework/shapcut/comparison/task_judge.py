"""Accuracy of the models of a comparison on tasks."""

import json
from collections.abc import Sequence
from typing import Any

from shapcut.comparison.row import ResultRow
from shapcut.measurement.notes import Notes
from shapcut.measurement.paired_accuracy import paired_differences
from shapcut.measurement.record import TaskScore
from shapcut.pipeline.session import Session
from shapcut.support.progress import Reporter


class TaskJudge:
    """Asks tasks of the model without some players; each set is asked once.

    Args:
        session: model and tasks; without tasks nothing is asked.
        reporter: reports progress.
    """

    def __init__(self, session: Session, reporter: Reporter) -> None:
        self._session = session
        self._reporter = reporter
        self._known: dict[tuple[int, ...], tuple[TaskScore, ...]] = {}

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the scores depend on besides the model; None without tasks."""
        harness = self._session.harness
        return None if harness is None else harness.identity

    def scores(self, removed: Sequence[int]) -> tuple[TaskScore, ...]:
        """Scores without these players, bypassed; a score that cannot be had is reported."""
        session, key = self._session, tuple(sorted(removed))
        if session.harness is None:
            return ()
        if key not in self._known:
            game, notes = session.game, Notes()
            present = [player for player in range(game.n_players) if player not in key]
            with session.adapter.bypass(game.model, present, game.granularity):
                self._known[key] = session.harness.scores(
                    session.adapter, game.model, session.opened.tokenizer, self._reporter, notes
                )
            for note in notes.lines:
                self._reporter.say(note)
        return self._known[key]

    def judged(self, row: ResultRow) -> ResultRow:
        """The row with its scores and their differences from the whole model's, unless the method failed."""
        if row.failure or self._session.harness is None:
            return row
        scores = self.scores(row.removed)
        paired = paired_differences(self.scores(()), scores)
        return row.model_copy(update={"tasks": scores, "differences": paired})

    def facts(self) -> dict[str, Any]:
        """The whole model's scores, as plain data; empty without tasks."""
        if self._session.harness is None:
            return {}
        dense = [json.loads(score.model_dump_json()) for score in self.scores(())]
        return {"tasks": {"question": self.identity, "dense": dense}}
