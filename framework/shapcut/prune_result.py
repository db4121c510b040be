"""What came out of a pruning, and how a start finds that an earlier one had only to say so."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapcut.checkpoint import CheckpointReport
from shapcut.errors import InputError
from shapcut.files import write_json_atomically
from shapcut.manifest import Manifest
from shapcut.measure import ModelMeasurement
from shapcut.plan import RemovalPlan
from shapcut.recipe import Recipe
from shapcut.run import Run
from shapcut.silence import one_line


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What came out of a pruning.

    Attributes:
        plan: what was removed.
        before: figures of the original.
        after: figures of the pruned model.
        checkpoint: what was written, and how well it agrees with the bypassed original.
    """

    plan: RemovalPlan
    before: ModelMeasurement
    after: ModelMeasurement
    checkpoint: CheckpointReport

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plan": json.loads(self.plan.model_dump_json()),
            "dense": json.loads(self.before.model_dump_json()),
            "pruned": json.loads(self.after.model_dump_json()),
            "checkpoint": {
                "directory": str(self.checkpoint.directory),
                "weight_bytes": self.checkpoint.weight_bytes,
                "total_bytes": self.checkpoint.total_bytes,
                "max_logit_difference": self.checkpoint.max_difference,
                "tolerance": self.checkpoint.tolerance,
                "library": self.checkpoint.library,
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "PruneResult":
        """The result that `to_json` made plain.

        Raises:
            KeyError: or TypeError, ValueError, if it is anything else.
        """
        written = content["checkpoint"]
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
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        path.parent.mkdir(exist_ok=True)
        write_json_atomically(path, self.to_json())


def read_result(path: Path) -> PruneResult:
    """The result in a file that `PruneResult.write` made.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return PruneResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({one_line(error)}); remove it and the checkpoint it tells of, and start "
            "again"
        ) from error


def finished_earlier(recipe: Recipe, out: Path, run: Run) -> PruneResult | None:
    """The result of an earlier start of the same run that was killed when its checkpoint was complete.

    Args:
        recipe: what is asked for.
        out: where the checkpoint is, if there is one.
        run: which is not done: so its manifest says, or there is no report.
    """
    try:
        result = read_result(run.result)
        written = (out / "recipe.yaml").read_text(encoding="utf-8")
        same_plan = json.loads((out / "plan.json").read_text(encoding="utf-8")) == result.to_json()["plan"]
        status = json.loads(run.manifest.read_text(encoding="utf-8"))["status"]
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    here = result.checkpoint.directory.absolute() == out.absolute()
    unfinished = status == "running" or not run.report.exists()  # which is written last
    asked = [recipe]
    if "finalist_samples" not in recipe.model_fields_set:  # a text without room for finals leaves them out
        asked.append(recipe.model_copy(update={"finalist_samples": 0}))
    same_recipe = written in [each.to_yaml() for each in asked]
    return result if same_recipe and same_plan and unfinished and here else None


def finish_earlier(result: PruneResult, run: Run) -> None:
    """Do what the killed start did not get to: clear the weights of steps, and say that the run is done."""
    for weights in run.steps.glob("*/result"):
        shutil.rmtree(weights)
    Manifest.reopen(run).finish(result=result.to_json())
