"""Runs the commands of docs/tutorial.md and writes what they print into the page.

python benchmarks/tutorial.py            # some minutes; needs the demo model
python benchmarks/tutorial.py --fill     # only fills the page from benchmarks/results/tutorial.json
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
RESULT = ROOT / "benchmarks" / "results" / "tutorial.json"
WIDTH = "100"

_CONSOLE = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_NOT_RUN = ("pip ", "git ", "cd ")


def commands(text: str) -> list[str]:
    """The page's commands, in their order, but for those that install."""
    lines = [line for block in _CONSOLE.findall(text) for line in block.splitlines()]
    given = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [command for command in given if not command.startswith(_NOT_RUN)]


def filled(text: str, outputs: dict[str, str]) -> str:
    """The page with each command followed by what it printed."""

    def fill(block: re.Match[str]) -> str:
        given = [line for line in block[0].splitlines() if line.startswith("$ ")]
        return "".join(f"{line}\n{outputs.get(line.removeprefix('$ '), '')}" for line in given)

    return _CONSOLE.sub(fill, text)


def run_all(text: str, directory: Path) -> dict[str, str]:
    """What each command prints on stdout, run in one directory; what ran there before is not repeated.

    Raises:
        subprocess.CalledProcessError: if one fails.
        ValueError: if one prints a path of this machine.
    """
    directory = directory.resolve()
    kept = directory / ".outputs.json"
    outputs: dict[str, str] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    environment = {**os.environ, "COLUMNS": WIDTH, "PATH": f"{_tools(directory)}:{os.environ['PATH']}"}
    for command in commands(text):
        if command not in outputs:
            print(f"$ {command}", file=sys.stderr, flush=True)
            outputs[command] = _printed(command, directory, environment)
            kept.write_text(json.dumps(outputs), encoding="utf-8")
    return {command: outputs[command] for command in commands(text)}


def _tools(directory: Path) -> Path:
    """A directory with a `shapcut` that is this checkout's."""
    tools = directory / ".bin"
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "shapcut").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shapcut "$@"\n')
    (tools / "shapcut").chmod(0o755)
    return tools


def _printed(command: str, directory: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(  # noqa: S602 - the page's own commands, pipes among them
        f"set -o pipefail; {command}",
        shell=True,
        executable="/bin/bash",
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    if str(directory) in done.stdout:
        raise ValueError(f"{command!r} prints a path of this machine")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def main() -> None:
    """Run and fill, or only fill."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--fill", action="store_true", help="run nothing")
    options.add_argument("--directory", type=Path, help="where to run; a second start there goes on")
    given = options.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    if not given.fill:
        with tempfile.TemporaryDirectory() as temporary:
            outputs = run_all(text, given.directory or Path(temporary))
        RESULT.write_text(json.dumps(outputs, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(filled(text, json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
