"""Sources of text (built in, a file, a hub data set), split into calibration and held-out parts."""

import importlib.util
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from shapcut.support.errors import InputError
from shapcut.support.files import require_regular
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

BUILTIN = "builtin"
GENERAL = "general"
BUILT_IN_NAMES = {BUILTIN: "English of Python's manual", GENERAL: "Speeches, a novel, profiles of countries"}
SELF = "self"
"""Text that the model writes itself, see `shapcut.models.own_text`; a run replaces it by a file."""

HUB_PREFIX = "hf:"
GENERAL_FILE = Path(__file__).with_name("general.txt.xz")
"""Made by ``benchmarks/general_text.py``, which names its sources."""

HELD_OUT_SHARE = 0.25
WHOLE_BYTES = 2**19
"""Size up to which a text is read and tokenized as a whole; of larger ones see `shapcut.data.excerpt`."""

MAX_HUB_CHARACTERS = 8_000_000
"""Characters read from a hub data set: enough for thousands of samples."""

_MIN_PROSE_WORDS = 8
_PROSE = re.compile(r"[A-Z\"*](?!.*(::=|>>>)).*[.:]")
_BOUNDARY_SLACK = 0.05
_SAMPLED_BYTES = 2**16
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(source: str) -> None:
    """Refuse a source that cannot be read, without a tokenizer and without the network.

    Args:
        source: ``builtin``, ``general``, the path of a ``.txt`` or ``.jsonl`` file, or
            ``hf:NAME[:CONFIG[:SPLIT]]``.

    Raises:
        InputError: with the reason.
    """
    if source.startswith(HUB_PREFIX):
        _hub_name(source)
    elif is_large_file(source):
        with opened_text(source) as file:
            decoded(source, file.read(_SAMPLED_BYTES).rpartition(b"\n")[0], 0)
    elif source not in _BUILT_IN:
        _read_file(source)


def is_large_file(source: str) -> bool:
    """Whether a source is a file that is not to be read as a whole.

    Raises:
        InputError: if a file is missing or is no text file.
    """
    if source in _BUILT_IN or source.startswith(HUB_PREFIX):
        return False
    return _text_file(source).stat().st_size > WHOLE_BYTES


def read_source(source: str) -> str:
    """All text of a source, documents separated by blank lines.

    Raises:
        InputError: if the source cannot be read.
    """
    if source in _BUILT_IN:
        return _BUILT_IN[source]()
    if source.startswith(HUB_PREFIX):
        return _read_hub(source)
    return _read_file(source)


def builtin_text() -> str:
    """The English prose of Python's language reference, part of every installation.

    Paragraphs are unwrapped and sorted by topic; grammar, code and duplicates are dropped.
    """
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte

    paragraphs: dict[str, None] = {}
    for name in sorted(topics):
        for block in topics[name].split("\n\n"):
            words = block.split()
            paragraph = " ".join(words)
            if len(words) >= _MIN_PROSE_WORDS and _PROSE.fullmatch(paragraph):
                paragraphs.setdefault(paragraph)
    return "\n\n".join(paragraphs) + "\n"


def general_text() -> str:
    """English of three kinds in turn, in the public domain: speeches, a novel, and profiles of countries."""
    return lzma.decompress(GENERAL_FILE.read_bytes()).decode("utf-8")


_BUILT_IN = {BUILTIN: builtin_text, GENERAL: general_text}
"""Texts that come with shapcut or with Python, by name."""


def split_text(documents: str | Iterable[str]) -> tuple[str, str]:
    """Split a text into a calibration part and a held-out part, its last quarter.

    The cut moves forward to the next paragraph or, if that is far away, the next line or blank.

    Returns:
        (calibration text, held-out text).
    """
    text = documents if isinstance(documents, str) else "\n\n".join(documents)
    wanted = int(len(text) * (1 - HELD_OUT_SHARE))
    latest = wanted + int(len(text) * _BOUNDARY_SLACK) + 1
    cut = wanted
    for boundary in ("\n\n", "\n", " "):
        found = text.find(boundary, wanted, latest)
        if found >= 0:
            cut = found + len(boundary)
            break
    return text[:cut], text[cut:]


def _text_file(source: str) -> Path:
    """The path of a text file, which is neither a directory nor a device."""
    path = Path(source)
    if source == SELF:
        raise InputError("the model's own text, self, is made for calibration only; name another text")
    if not path.exists():
        named = path.suffix == "" and "/" not in source
        hint = f"; {did_you_mean(source, [*_BUILT_IN, SELF])}" if named else ""
        raise InputError(f"the text {source} does not exist{hint}")
    if path.is_dir() or path.suffix.lower() not in (".txt", ".jsonl"):
        raise InputError(f"the text {source} is not a .txt or .jsonl file; convert it, or use {BUILTIN!r}")
    require_regular(path)
    if not path.stat().st_size:
        raise InputError(f"the text {source} is empty")
    return path


def _read_file(source: str) -> str:
    _text_file(source)
    with opened_text(source) as file:
        text = decoded(source, file.read(), 0)
    if not text.strip():
        raise InputError(f"the text {source} is empty")
    return text


@contextmanager
def opened_text(source: str) -> Iterator[BinaryIO]:
    """A text file, opened.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read the text {source}: {error.strerror}") from error


def decoded(source: str, content: bytes, offset: int) -> str:
    """The text of some of a file's bytes, which begin at ``offset``.

    Raises:
        InputError: if they are not UTF-8, or not JSON lines where these are expected.
    """
    try:
        text = content.decode("utf-8" if offset else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise InputError(f"{source} is not UTF-8 text (byte {place}); convert it to UTF-8") from error
    if source.lower().endswith(".jsonl"):
        return "\n\n".join(_documents(f"{source}, byte {offset}" if offset else source, text))
    return text


def _documents(source: str, text: str) -> Iterable[str]:
    """Documents of JSON lines; `str.splitlines` would also cut at characters that JSON allows in strings."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON ({one_line(error)})") from error
        document = entry.get("text") if isinstance(entry, dict) else entry
        if not isinstance(document, str):
            raise InputError(f'{place}: neither a JSON string nor an object with a string in "text"')
        if found := _SURROGATE.search(document):
            raise InputError(
                f"{place}: the text has half of a surrogate pair, {found[0]!a}, which is no character; "
                "correct or remove it"
            )
        yield document


def _hub_name(source: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of a hub data set."""
    name, config, split = [*source.removeprefix(HUB_PREFIX).split(":", 2), "", ""][:3]
    if not name:
        raise InputError(f"{source!r} names no data set; write hf:NAME or hf:NAME:CONFIG:SPLIT")
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f"{source} needs the datasets library: pip install 'shapcut[hub]'")
    return name, config or None, split or "train"


def _read_hub(source: str) -> str:
    """Up to `MAX_HUB_CHARACTERS` of a hub data set's split (by default the training split)."""
    name, config, split = _hub_name(source)
    import datasets  # noqa: PLC0415 - optional

    documents, characters = [], 0
    try:
        with quiet_libraries():
            rows: Any = datasets.load_dataset(name, config, split=split, streaming=True)
            for row in rows:
                document = _row_text(row, source)
                documents.append(document)
                characters += len(document)
                if characters >= MAX_HUB_CHARACTERS:
                    break
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise InputError(f"cannot read {source}: {one_line(error)}") from error
    text = "\n\n".join(documents)
    if not text.strip():
        raise InputError(f"the text {source} is empty")
    return text


def _row_text(row: Any, source: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise InputError(f'{source} has no column "text" of strings; its columns: {", ".join(sorted(row))}')
    return text
