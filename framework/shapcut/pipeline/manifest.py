"""The manifest of a run: everything needed to understand and repeat it."""

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from shapcut.host.host import Host
from shapcut.pipeline.session import Session
from shapcut.support.errors import ShapcutError
from shapcut.support.files import write_json_atomically, write_text_atomically
from shapcut.support.plain_json import read_json
from shapcut.support.run_directory import Run

_NAMED_PACKAGES = ("shapcut", "torch", "transformers", "numpy", "scipy", "safetensors")


def command_line() -> str:
    """The command line of this process, without the program's directory."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "shapcut"] if name == "__main__.py" else [name]
    return shlex.join([*program, *sys.argv[1:]])


class Manifest:
    """Written when a run starts, after each phase and when it ends."""

    def __init__(self, run: Run, content: dict[str, Any]) -> None:
        self._run = run
        self._content = content
        self._write()

    @classmethod
    def start(cls, run: Run, session: Session) -> "Manifest":
        """Record versions, command, recipe, fingerprints, hardware and time."""
        opened, recipe = session.opened, session.recipe
        write_text_atomically(run.recipe, recipe.to_yaml())
        content = {
            "format_version": 1,
            "status": "running",
            "started": _now(),
            "command": command_line(),
            "recipe": recipe.model_dump(mode="json"),
            "model": {
                "source": opened.source_name,
                "revision": opened.source.location.commit,
                "class": type(opened.model).__name__,
                "adapter": session.adapter.name,
                "players": session.game.n_players,
            },
            "text": {
                "source": session.calibration.source,
                "calibration": list(session.calibration.input_ids.shape),
                "finals": [list(part.input_ids.shape) for part in session.finals],
                "held_out": list(session.held_out.input_ids.shape),
                "adds_bos": session.calibration.adds_bos,
            },
            "fingerprint": session.game.fingerprint(),
            "versions": {
                name: metadata.version(name)
                for name in dict.fromkeys((*_NAMED_PACKAGES, session.adapter.library))
            },
            "machine": {
                "python": platform.python_version(),
                "system": platform.platform(),
                "processor": platform.machine(),
                "threads": torch.get_num_threads(),
                "device": str(session.game.input_ids.device),
            },
            "phases": {},
        }
        return cls(run, content)

    @classmethod
    def reopen(cls, run: Run) -> "Manifest":
        """Open the manifest of an earlier start."""
        return cls(run, read_json(run.manifest))

    @property
    def command(self) -> str:
        """The command that started the run."""
        return str(self._content["command"])

    def note(self, phase: str, **facts: Any) -> None:
        """Record the cost of a phase."""
        self._content["phases"][phase] = facts
        self._write()

    def finish(self, **facts: Any) -> None:
        """Mark the run as done and record its result."""
        self._content.pop("reason", None)
        self._content.update(facts, status="done", finished=_now())
        self._write()

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Mark the run as failed, with the reason, if an error of shapcut ends the ``with`` block."""
        try:
            yield
        except ShapcutError as error:
            self._content.update(status="failed", reason=str(error), finished=_now())
            self._write()
            raise

    def _write(self) -> None:
        write_json_atomically(self._run.manifest, self._content)


def finish_run(host: Host, run: Run, manifest: Manifest, **facts: Any) -> None:
    """Mark a run as done, record its result and notify the plugins, which write the report."""
    manifest.finish(**facts)
    host.manager.hook.shapcut_run_finished(run=run, hook=host.manager.hook)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
