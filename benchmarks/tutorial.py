"""Runs the commands of docs/tutorial.md and writes what they print into the page.

python benchmarks/tutorial.py            # some minutes; needs the demo model
python benchmarks/tutorial.py --fill     # only fills the page from benchmarks/results/tutorial.json
"""

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


def run_all(text: str) -> dict[str, str]:
    """What each command prints on stdout, all run in one new directory.

    Raises:
        subprocess.CalledProcessError: if one fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        tools = Path(directory, ".bin")
        tools.mkdir()
        (tools / "shapcut").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shapcut "$@"\n')
        (tools / "shapcut").chmod(0o755)
        environment = {**os.environ, "COLUMNS": WIDTH, "PATH": f"{tools}:{os.environ['PATH']}"}
        outputs = {}
        for command in commands(text):
            print(f"$ {command}", file=sys.stderr, flush=True)
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
            lines = [line.rstrip() for line in done.stdout.splitlines()]
            outputs[command] = "".join(f"{line}\n" for line in lines)
            if directory in outputs[command]:
                raise ValueError(f"{command!r} prints a path of this machine")
    return outputs


def main() -> None:
    """Run and fill, or only fill."""
    text = PAGE.read_text(encoding="utf-8")
    if "--fill" not in sys.argv:
        RESULT.write_text(json.dumps(run_all(text), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(filled(text, json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
