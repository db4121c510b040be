"""What the page of a comparison is made from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from shapcut.errors import InputError
from shapcut_plugins.report_data import Part


class ModelFacts(Part):
    """Which model the methods worked on."""

    source: str
    class_name: str = Field(alias="class")
    players: int


class TextFacts(Part):
    """Which text was used; shapes are (windows, tokens a window)."""

    calibration: str
    calibration_windows: tuple[int, int]
    held_out: str
    held_out_windows: tuple[int, int]
    adds_bos: bool


class RowFacts(Part):
    """One method for one number of players and one seed."""

    method: str
    source: str
    n_remove: int
    seed: int
    removed: tuple[int, ...]
    calibration_nats: float | None
    held_out_perplexity: float | None
    evaluations: int
    tokens: int
    seconds: float
    reason: str
    failure: str


class ComparisonFacts(Part):
    """The whole comparison."""

    format_version: Literal[1]
    model: ModelFacts
    text: TextFacts
    dense_held_out_perplexity: float | None
    rows: tuple[RowFacts, ...]


def read_comparison(path: Path) -> ComparisonFacts:
    """Read ``comparison.json``.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return ComparisonFacts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is damaged: {place}: {first['msg']}; repeat the comparison") from error
