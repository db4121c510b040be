"""The result of pruning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shapcut.export.checkpoint import CheckpointReport
from shapcut.game.interval import Ratio
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.measurement.paired_accuracy import PairedDifference, paired_differences
from shapcut.measurement.record import ModelMeasurement, changes, paired_texts
from shapcut.measurement.writing import WritingComparison
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.html_table import html_table
from shapcut.support.plain_json import read_json
from shapcut.support.quiet import one_line


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The result of pruning.

    Attributes:
        plan: the plan that was applied.
        before: figures of the original.
        after: figures of the pruned model.
        checkpoint: the written checkpoint and its agreement with the bypassed original.
        form: what to know of the checkpoint's form; empty if it is of the original's family.
        writing: what both models write, and where the pruned one got worse; None if unknown.
        steps: the steps after the cut, in order, each with what became of it.
        curves: the learning curves of steps that train, by step.
    """

    plan: RemovalPlan
    before: ModelMeasurement
    after: ModelMeasurement
    checkpoint: CheckpointReport
    form: str = ""
    writing: WritingComparison | None = None
    steps: tuple[str, ...] = ()
    curves: Mapping[str, LearningCurve] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Ratio]:
        """Each uncertain figure of the pruned model over the original's."""
        return changes(self.before, self.after)

    @property
    def differences(self) -> tuple[PairedDifference, ...]:
        """Differences between the accuracies of both models on the same questions."""
        return paired_differences(self.before.tasks, self.after.tasks)

    def __str__(self) -> str:
        return outcome_text(self.plan, self.before, self.after)

    def _repr_html_(self) -> str:
        return outcome_table(self.plan, self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plan": json.loads(self.plan.model_dump_json()),
            "dense": json.loads(self.before.model_dump_json()),
            "pruned": json.loads(self.after.model_dump_json()),
            "changes": {path: ratio.to_json() for path, ratio in self.changes.items()},
            "differences": [each.model_dump() for each in self.differences],
            "checkpoint": {
                "directory": str(self.checkpoint.directory),
                "weight_bytes": self.checkpoint.weight_bytes,
                "total_bytes": self.checkpoint.total_bytes,
                "max_logit_difference": self.checkpoint.max_difference,
                "tolerance": self.checkpoint.tolerance,
                "library": self.checkpoint.library,
                "form": self.form,
            },
            "writing": None if self.writing is None else json.loads(self.writing.model_dump_json()),
            "steps": list(self.steps),
            "curves": {step: json.loads(curve.model_dump_json()) for step, curve in self.curves.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "PruneResult":
        """Restore a result from the output of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: if ``content`` is anything else.
        """
        written, writing = content["checkpoint"], content.get("writing")
        return cls(
            plan=RemovalPlan.model_validate(content["plan"]),
            before=ModelMeasurement.model_validate(content["dense"]),
            after=ModelMeasurement.model_validate(content["pruned"]),
            checkpoint=CheckpointReport(
                directory=Path(written["directory"]),
                weight_bytes=int(written["weight_bytes"]),
                total_bytes=int(written["total_bytes"]),
                max_difference=float(written["max_logit_difference"]),
                tolerance=float(written["tolerance"]),
                library=str(written["library"]),
            ),
            form=str(written.get("form", "")),
            writing=None if writing is None else WritingComparison.model_validate(writing),
            steps=tuple(map(str, content.get("steps", ()))),
            curves={
                step: LearningCurve.model_validate(curve) for step, curve in content.get("curves", {}).items()
            },
        )

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically."""
        path.parent.mkdir(exist_ok=True)
        write_json_atomically(path, self.to_json())


def outcome_table(plan: RemovalPlan, before: ModelMeasurement, after: ModelMeasurement) -> str:
    """Dense beside pruned, in HTML."""
    return html_table(_caption(plan), ("", "dense", "pruned"), _rows(before, after))


def outcome_text(plan: RemovalPlan, before: ModelMeasurement, after: ModelMeasurement) -> str:
    """As `outcome_table`, in lines of text."""
    lines = (f"{name}: {dense} -> {pruned}" for name, dense, pruned in _rows(before, after))
    return "\n".join([_caption(plan), *lines])


def _caption(plan: RemovalPlan) -> str:
    players = len(plan.removed) + len(plan.kept)
    return f"removed {len(plan.removed)} of {players} players: {'; '.join(plan.listed())}"


def _rows(before: ModelMeasurement, after: ModelMeasurement) -> list[tuple[str, str, str]]:
    """A figure's name, and its value for both models."""
    return [
        (
            "held-out perplexity",
            f"{before.perplexity.perplexity:.2f}",
            f"{after.perplexity.perplexity:.2f}",
        ),
        *(
            (pruned.figure, f"{dense.perplexity.perplexity:.2f}", f"{pruned.perplexity.perplexity:.2f}")
            for dense, pruned in paired_texts(before, after)
        ),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        *(
            (f"{each.task} ({each.metric})", f"{each.before:.1%}", f"{each.after:.1%}")
            for each in paired_differences(before.tasks, after.tasks)
        ),
    ]


def read_result(path: Path) -> PruneResult:
    """Read a result written by `PruneResult.write`.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        return PruneResult.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({one_line(error)}); remove it and the checkpoint it tells of, and start "
            "again"
        ) from error
