"""Processor time and memory of loading a GGUF file with transformers, its parses shared or not.

    python benchmarks/serving/load_gguf.py FILE.gguf [FILE.gguf ...]     some minutes a model

Each load runs in a process of its own, with one thread; the ways alternate. Headers are counted as the gguf
package parses them. The weights and the tokenizer must be the same.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import torch

from shapcut.measurement.sizes import peak_memory_bytes
from shapcut.models.fingerprint import model_fingerprint
from shapcut.models.gguf_reader import parsed_once
from shapcut.models.loading import load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.support.files import write_json_atomically
from shapcut.support.quiet import quiet_libraries

RESULT = Path(__file__).parents[1] / "results" / "gguf_loading.json"
REPEATS = 2
WAYS = ("transformers alone", "parsed once")


@contextmanager
def without_quick_reader() -> Iterator[None]:
    """Let `parsed_once` do nothing: it leaves alone a reader that somebody else put in place."""
    package, before = gguf, gguf.GGUFReader
    package.GGUFReader = type("PlainReader", (before,), {})
    try:
        yield
    finally:
        package.GGUFReader = before


@contextmanager
def counted_parses() -> Iterator[list[Any]]:
    """Every file that any reader of the package parses, quick ones too."""
    reader, parsed = gguf.GGUFReader, []
    before = reader.__init__

    def init(self: Any, path: Any, *arguments: Any) -> None:
        parsed.append(path)
        before(self, path, *arguments)

    reader.__init__ = init
    try:
        yield parsed
    finally:
        reader.__init__ = before


def one(file: str, way: str) -> dict[str, Any]:
    """Load a file in this process."""
    source = ModelSource.find(file, device="cpu")
    began = time.process_time()
    reader = parsed_once() if way == WAYS[1] else without_quick_reader()
    with quiet_libraries(), counted_parses() as parsed, reader:
        inspect_source(source)
        loaded = load(source)
    seconds = time.process_time() - began
    tokenizer = loaded.tokenizer.backend_tokenizer.to_str()
    return {
        "seconds": seconds,
        "parses": len(parsed),
        "peak MiB": (peak_memory_bytes() or 0) / 2**20,
        "content": model_fingerprint(loaded.model) + hashlib.sha256(tokenizer.encode()).hexdigest(),
    }


def of_file(file: str) -> dict[str, Any]:
    """The medians of both ways for one file, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way, file]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(file, way, runs[way][-1]["seconds"], file=sys.stderr)
    equal = len({run["content"] for each in runs.values() for run in each}) == 1
    figures = {
        way: {name: median(run[name] for run in each) for name in ("seconds", "parses", "peak MiB")}
        for way, each in runs.items()
    }
    return {"model": Path(file).name, "ways": figures, "same content": equal}


def main() -> None:
    """Measure the files and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        torch.set_num_threads(1)
        print(json.dumps(one(given.files[0], given.one)))
        return
    rows = [of_file(file) for file in given.files]
    content = {
        "command": f"python benchmarks/serving/load_gguf.py {' '.join(row['model'] for row in rows)}",
        "hardware": f"1 thread, {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("transformers", "gguf")},
        "repeats": REPEATS,
        "models": rows,
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
