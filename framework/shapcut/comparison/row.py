"""One row of a comparison: the removed players, their value and the cost of the search."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shapcut.measurement.paired_accuracy import PairedDifference
from shapcut.measurement.record import TaskScore
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.plain_json import read_json


class OnOtherText(BaseModel):
    """What is left on another text after removal.

    Attributes:
        source: the text.
        perplexity: on its windows; None if not finite.
        nats: loss per token on each of its windows; empty if one is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    source: str
    perplexity: float | None
    nats: tuple[float, ...]


class ResultRow(BaseModel):
    """The result of one method for one number of players and one seed.

    Attributes:
        key: digest of everything that determines the row; a resumed comparison reuses rows by key.
        method: the method as the user wrote it.
        estimator: ``NAME[:key=value,...]``.
        selector: ``NAME[:key=value,...]``.
        utility: the utility of the method's values.
        source: publication of the method.
        budget: maximum number of coalitions.
        n_remove: number of players to remove.
        seed: seed of the calibration windows and of the method.
        removed: the removed players.
        calibration_nats: loss per token on the calibration windows after removal; None if not finite.
        held_out_perplexity: perplexity on held-out text after removal; None if not finite.
        held_out_nats: loss per token on each held-out window after removal; empty if one is not finite.
        other_texts: the same on other texts.
        evaluations: distinct coalitions measured, see `shapcut.game.cost.Cost`.
        tokens: tokens processed.
        block_tokens: tokens times the blocks that they pass through.
        seconds: time as if the method ran alone; a cached evaluation counts its mean duration.
        seconds_elapsed: actual time.
        reason: why the method chose this set.
        tasks: scores on tasks after removal.
        differences: between them and the whole model's, on the same questions.
        failure: why there is no result; empty if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    key: str
    method: str
    estimator: str
    selector: str
    utility: str
    source: str
    budget: int
    n_remove: int
    seed: int
    removed: tuple[int, ...] = ()
    calibration_nats: float | None = None
    held_out_perplexity: float | None = None
    held_out_nats: tuple[float, ...] = ()
    other_texts: tuple[OnOtherText, ...] = ()
    evaluations: int = 0
    tokens: int = 0
    block_tokens: int = 0
    seconds: float = 0.0
    seconds_elapsed: float = 0.0
    reason: str = ""
    tasks: tuple[TaskScore, ...] = ()
    differences: tuple[PairedDifference, ...] = ()
    failure: str = ""

    def on(self, source: str) -> "ResultRow":
        """The row as if another text were the held-out one."""
        found = next((each for each in self.other_texts if each.source == source), None)
        perplexity, nats = (None, ()) if found is None else (found.perplexity, found.nats)
        return self.model_copy(update={"held_out_perplexity": perplexity, "held_out_nats": nats})

    def to_json(self) -> dict[str, Any]:
        """Plain data, with words for infinities."""
        content: dict[str, Any] = json.loads(self.model_dump_json())
        return content


_ROWS = TypeAdapter(tuple[ResultRow, ...])


def read_rows(path: Path) -> dict[str, ResultRow]:
    """Read the finished rows by key, without failures; empty if the file is missing.

    Raises:
        InputError: if the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        rows = _ROWS.validate_python(read_json(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be continued: it is damaged; choose another --run") from error
    return {row.key: row for row in rows if not row.failure}


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write finished rows, atomically."""
    write_json_atomically(path, [row.to_json() for row in rows])
