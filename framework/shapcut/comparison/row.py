"""One line of a comparison: what a method removed, what that is worth, and what finding it cost."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.plain_json import read_json


class ResultRow(BaseModel):
    """The result of one method for one number of players and one seed.

    Attributes:
        key: equal for rows that must come out equal; a resumed comparison takes them over.
        method: as the user named it.
        estimator: ``NAME[:key=value,...]``.
        selector: ``NAME[:key=value,...]``.
        utility: whose values it went by.
        source: where the method was published.
        budget: coalitions that it was allowed.
        n_remove: how many players it removed.
        seed: of the calibration windows and of all randomness.
        removed: the players.
        calibration_nats: loss per token without them on the calibration windows; None if it is not finite.
        held_out_perplexity: on text that no method sees; None if it is not finite.
        evaluations: distinct coalitions that it asked for, see `shapcut.game.cost.Cost`.
        tokens: tokens that it processed.
        block_tokens: tokens times the blocks that they went through.
        seconds: as if it had been alone: what others had measured counts at its average duration.
        seconds_elapsed: what it really took.
        reason: why this set, in the method's words.
        failure: why there is no result, or empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    evaluations: int = 0
    tokens: int = 0
    block_tokens: int = 0
    seconds: float = 0.0
    seconds_elapsed: float = 0.0
    reason: str = ""
    failure: str = ""


_ROWS = TypeAdapter(tuple[ResultRow, ...])


def read_rows(path: Path) -> dict[str, ResultRow]:
    """Finished rows by their keys, without the failures; empty if there are none.

    Raises:
        InputError: if the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        rows = _ROWS.validate_python(read_json(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be continued: it is damaged; name another --run") from error
    return {row.key: row for row in rows if not row.failure}


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write finished rows, atomically."""
    write_json_atomically(path, [row.model_dump(mode="json") for row in rows])
