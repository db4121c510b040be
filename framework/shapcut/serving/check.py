"""Run a cut model and the uncut one in an engine, and compare both with transformers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shapcut.models.source import ModelSource
from shapcut.serving.answer import Answer, Refusal, Request
from shapcut.serving.engine import Engine, TransformersEngine
from shapcut.serving.process import Interpreter
from shapcut.serving.prompts import Prompts, ServedFacts, read_prompts
from shapcut.serving.record import ServingCheck, Side
from shapcut.serving.verdict import Agreement, accepted_difference, agreement, judge
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.progress import Reporter


class Asker(Protocol):
    """Whoever can ask an engine, see `Interpreter`."""

    def ask(self, engine: Engine, request: Request, timeout: float) -> Answer | Refusal:
        """See `Interpreter.ask`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingQuestion:
    """What to ask an engine.

    Attributes:
        result: name of what is checked, for the record.
        name: the engine's, as it is registered.
        engine: the engine.
        interpreter: the Python that has it.
        reference: asks transformers.
        text: source of the prompts.
        dtype: number format of the computation.
        new_tokens: length of the greedy continuations.
        timed_tokens: new tokens that are timed.
        repeats: measurements of the speed, 0 for none.
        threads: of the processor; None: the engine's default.
        timeout: seconds that one process may take.
    """

    result: str
    name: str
    engine: Engine
    interpreter: Interpreter
    reference: Asker = field(default_factory=Interpreter)
    text: str = "builtin"
    dtype: str = "float32"
    new_tokens: int = 16
    timed_tokens: int = 32
    repeats: int = 3
    threads: int | None = None
    timeout: float = 600.0

    def request(self, source: ModelSource, prompts: Prompts) -> Request:
        """The request to the engine on a model.

        Raises:
            InputError: if the engine loads nothing of the kind.
        """
        facts = ServedFacts.of(source)
        return Request(
            model=str(self.engine.model_file(local_files(source)).resolve()),
            config=facts.unread,
            dtype=self.dtype,
            trust_remote_code=source.trust_remote_code,
            vocabulary=facts.vocabulary,
            threads=self.threads,
            prompts=prompts.tokens,
            new_tokens=self.new_tokens,
            timed_prompt=prompts.timed,
            timed_tokens=self.timed_tokens,
            repeats=self.repeats,
        )


def local_files(source: ModelSource) -> Path:
    """The directory or GGUF file of a model; a hub id is found in the hub's cache.

    Raises:
        InputError: if it is neither, or of a format that only shapcut's adapters read.
    """
    location = source.location
    if location.format is not None:
        raise InputError(f"{location.source} is no checkpoint of transformers, and engines load those only")
    if location.gguf_file is not None:
        return Path(location.gguf_file)
    if location.directory is None:
        raise InputError(
            f"{location.source} is not on this machine: fetch it with hf download {location.source}"
        )
    return location.directory


def check_serving(
    question: ServingQuestion, cut: ModelSource, original: ModelSource, reporter: Reporter
) -> ServingCheck:
    """Ask an engine and transformers about a cut model and about the uncut one.

    Args:
        question: what to ask whom.
        cut: the cut model.
        original: the uncut one.
        reporter: told about progress.

    Raises:
        InputError: if a model, the text or the engine cannot be had, before any work.
        ShapcutError: if transformers itself refuses a model, or a process does not end in time.
    """
    room = max(question.new_tokens, question.timed_tokens) + 1
    prompts = read_prompts(cut, question.text, room)
    requests = [(source.location.source, question.request(source, prompts)) for source in (cut, original)]
    question.interpreter.require(question.name, question.engine)
    sides, agreements, versions = [], [], []
    for name, request in requests:
        with reporter.working(f"{question.name} on {name}"):
            found = question.interpreter.ask(question.engine, request, question.timeout)
        agreed = found if isinstance(found, Refusal) else _agreement(found, request, question, name, reporter)
        agreements.append(agreed)
        sides.append(_side(name, found, agreed))
        versions += [] if isinstance(found, Refusal) else [found.version]
    accepted = accepted_difference(question.engine.accepted, question.dtype)
    return ServingCheck(
        result=question.result,
        engine=question.name,
        version=versions[0] if versions else None,
        dtype=question.dtype,
        text=prompts.text,
        original=sides[1],
        cut=sides[0],
        accepted=accepted,
        verdict=judge(agreements[0], agreements[1], accepted),
    )


def _agreement(
    found: Answer, request: Request, question: ServingQuestion, name: str, reporter: Reporter
) -> Agreement:
    """Agreement with transformers, which decodes without a cache and is not timed."""
    with reporter.working(f"transformers on {name}"):
        expected = question.reference.ask(
            TransformersEngine(),
            request.model_copy(update={"cached": False, "repeats": 0}),
            question.timeout,
        )
    if isinstance(expected, Refusal):
        raise ShapcutError(f"transformers cannot run {name} to compare with: {expected.refusal}")
    return agreement(found, expected)


def _side(name: str, found: Answer | Refusal, agreed: Agreement | Refusal) -> Side:
    if isinstance(found, Refusal) or isinstance(agreed, Refusal):
        return Side(model=name, refusal=found.refusal if isinstance(found, Refusal) else None)
    return Side(
        model=name,
        agreement=agreed,
        prompt_tokens_per_second=found.prompt_tokens_per_second,
        decode_tokens_per_second=found.decode_tokens_per_second,
        peak_memory_bytes=found.peak_memory_bytes,
        greedy=tuple(answer.greedy for answer in found.prompts),
    )
