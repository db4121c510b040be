"""Sources of text (built-in, a file, a hub data set), split into calibration and held-out parts."""

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shapcut.support.errors import InputError
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

BUILTIN = "builtin"
HUB_PREFIX = "hf:"
HELD_OUT_SHARE = 0.25
MAX_HUB_CHARACTERS = 8_000_000
"""Characters read from a hub data set: enough for thousands of samples, few enough to tokenize at once."""

_MIN_PROSE_WORDS = 8
_PROSE = re.compile(r"[A-Z\"*](?!.*(::=|>>>)).*[.:]")
_BOUNDARY_SLACK = 0.05


def check_source(source: str) -> None:
    """Refuse a source that cannot be read, without a tokenizer and without the network.

    Args:
        source: ``builtin``, the path of a ``.txt`` or ``.jsonl`` file, or ``hf:NAME[:CONFIG[:SPLIT]]``.

    Raises:
        InputError: with the reason.
    """
    if source.startswith(HUB_PREFIX):
        _hub_name(source)
    elif source != BUILTIN:
        _read_file(source)


def read_source(source: str) -> str:
    """All text of a source, documents separated by blank lines.

    Raises:
        InputError: if the source cannot be read.
    """
    if source == BUILTIN:
        return builtin_text()
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


def _read_file(source: str) -> str:
    path = Path(source)
    if not path.exists():
        hint = f"; {did_you_mean(source, [BUILTIN])}" if path.suffix == "" and "/" not in source else ""
        raise InputError(f"the calibration source {source} does not exist{hint}")
    if path.is_dir() or path.suffix.lower() not in (".txt", ".jsonl"):
        raise InputError(
            f"the calibration source {source} is not a .txt or .jsonl file; convert it, or use {BUILTIN!r}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot read the calibration source {source}: {error.strerror}") from error
    if path.suffix.lower() == ".jsonl":
        text = "\n\n".join(_documents(source, text))
    if not text.strip():
        raise InputError(f"the calibration source {source} is empty")
    return text


def _documents(source: str, text: str) -> Iterable[str]:
    """Documents of JSON lines; `str.splitlines` would also cut at characters that JSON allows in strings."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}, line {number}: not JSON ({one_line(error)})") from error
        document = entry.get("text") if isinstance(entry, dict) else entry
        if not isinstance(document, str):
            raise InputError(
                f'{source}, line {number}: neither a JSON string nor an object with a string in "text"'
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
        raise InputError(f"the calibration source {source} is empty")
    return text


def _row_text(row: Any, source: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise InputError(f'{source} has no column "text" of strings; its columns: {", ".join(sorted(row))}')
    return text
