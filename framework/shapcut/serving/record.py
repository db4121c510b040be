"""The record of a check, kept beside the run."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from shapcut.serving.verdict import Agreement, Divergence, Verdict
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically
from shapcut.support.plain_json import read_json
from shapcut.support.quiet import one_line

_AGAIN = "remove it and check again"


class Side(BaseModel):
    """One model in the engine.

    Attributes:
        model: as it was found.
        refusal: the engine's, or None.
        agreement: with transformers; None if refused.
        prompt_tokens_per_second: of reading.
        decode_tokens_per_second: of writing.
        peak_memory_bytes: of the engine's process.
        greedy: the engine's continuation of each prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    model: str
    refusal: str | None = None
    agreement: Agreement | None = None
    prompt_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    greedy: tuple[tuple[int, ...], ...] = ()


class Text(BaseModel):
    """The prompts.

    Attributes:
        source: where they come from.
        prompts: their number.
        length: tokens of each.
        fingerprint: SHA-256 of the token ids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    prompts: int
    length: int
    fingerprint: str


class ServingCheck(BaseModel):
    """How an engine runs a cut model, beside the uncut one.

    Attributes:
        result: name of the pruned checkpoint's directory or file.
        engine: name of the engine.
        version: the engine's; None if it refuses both models.
        dtype: number format of the computation.
        text: the prompts.
        original: the uncut model.
        cut: the cut model.
        accepted: the largest difference of log-probabilities that counts as equal.
        verdict: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    result: str
    engine: str
    version: str | None
    dtype: str
    text: Text
    original: Side
    cut: Side
    accepted: float
    verdict: Verdict

    @property
    def subject(self) -> tuple[str, str, str]:
        """Result, engine and number format."""
        return self.result, self.engine, self.dtype

    @property
    def sentence(self) -> str:
        """The verdict, with the engine's message or the place where greedy tokens part."""
        message = self.cut.refusal or (self.original.refusal if self.verdict is Verdict.ALONE else None)
        if message is not None:
            return f"{self.verdict}: {message}"
        agreement = self.cut.agreement
        worst = None if agreement is None else agreement.largest_gap
        return self.verdict if worst is None else f"{self.verdict}; {_parting(worst)}"


def _parting(divergence: Divergence) -> str:
    return (
        f"greedy tokens part at token {divergence.place} after prompt {divergence.prompt}, where "
        f"log-probabilities are {divergence.gap:.2g} apart"
    )


class ServingRecord(BaseModel):
    """All checks of a run's results.

    Attributes:
        format_version: of the file.
        checks: the last one of each result in each engine and number format.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    format_version: Literal[1] = 1
    checks: tuple[ServingCheck, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "ServingRecord":
        """Read a record; an empty one if there is no file.

        Raises:
            InputError: if it is damaged.
        """
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(f"{path} is damaged: {error.errors()[0]['msg']}; {_AGAIN}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged: {one_line(error)}; {_AGAIN}") from error

    def adding(self, check: ServingCheck) -> "ServingRecord":
        """The record with a check, which replaces an earlier one of the same result, engine and format."""
        return ServingRecord(checks=(*(one for one in self.checks if one.subject != check.subject), check))

    def of(self, result: str) -> tuple[ServingCheck, ...]:
        """The checks of one result."""
        return tuple(check for check in self.checks if check.result == result)

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        write_json_atomically(path, json.loads(self.model_dump_json()))
