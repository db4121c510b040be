"""The hooks that shapcut calls; implement any of them in a plugin module with ``@hookimpl``.

Plugins are found through the entry-point group ``shapcut``, bundled ones too.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import click
    from torch import nn

    from shapcut.game.coalitions import CoalitionMatrix, Values
    from shapcut.game.plan import RemovalPlan
    from shapcut.models.adapter import Adapter
    from shapcut.support.run_directory import Run

hookspec = pluggy.HookspecMarker("shapcut")
hookimpl = pluggy.HookimplMarker("shapcut")


class Register(Protocol):
    """The function passed to the ``shapcut_register_*`` hooks; call it once per registration."""

    def __call__(self, name: str, target: Callable[..., Any] | str) -> None:
        """Register ``target`` under ``name``; a taken name is an error that shows both distributions.

        ``target`` is a class or function, or its ``"module:name"``, which is imported on first use.
        """


@hookspec
def shapcut_register_adapters(register: Register) -> None:
    """Called once at start-up: offer adapters (`shapcut.contracts.Adapter` subclasses)."""


@hookspec
def shapcut_register_formats(register: Register) -> None:
    """Called once at start-up: offer checkpoint formats (`shapcut.contracts.CheckpointFormat` subclasses)."""


@hookspec
def shapcut_register_utilities(register: Register) -> None:
    """Called once at start-up: offer utilities (`shapcut.contracts.TokenUtility` subclasses)."""


@hookspec
def shapcut_register_samplers(register: Register) -> None:
    """Called once at start-up: offer samplers (`shapcut.contracts.Sampler` subclasses)."""


@hookspec
def shapcut_register_estimators(register: Register) -> None:
    """Called once at start-up: offer estimators (`shapcut.contracts.Estimator` subclasses)."""


@hookspec
def shapcut_register_selectors(register: Register) -> None:
    """Called once at start-up: offer selectors (`shapcut.contracts.Selector` subclasses)."""


@hookspec
def shapcut_register_postprocessors(register: Register) -> None:
    """Called once at start-up: offer post-pruning steps (`shapcut.contracts.PostProcessor` subclasses)."""


@hookspec
def shapcut_register_executors(register: Register) -> None:
    """Called once at start-up: offer executors (`shapcut.contracts.Executor` subclasses)."""


@hookspec
def shapcut_register_engines(register: Register) -> None:
    """Called once at start-up: offer inference engines (`shapcut.contracts.Engine` subclasses)."""


@hookspec(firstresult=True)
def shapcut_select_adapter(model: "nn.Module", adapters: Sequence["Adapter"]) -> "Adapter | None":
    """Called for a loaded model: return the adapter to use, or None to leave the choice to other plugins.

    The core is called last and returns the only adapter that matches; several matches are an error.
    """


@hookspec
def shapcut_register_commands(cli: "click.Group", hook: pluggy.HookRelay) -> None:
    """Called when the command line is built: add commands to ``cli``; ``hook`` calls other plugins' hooks."""


@hookspec
def shapcut_run_started(run: "Run") -> None:
    """Called after the run directory is opened, before the first evaluation."""


@hookspec
def shapcut_coalitions_evaluated(coalitions: "CoalitionMatrix", values: "Values", total: int) -> None:
    """Called after each measured chunk is stored.

    ``total`` is the number of stored coalitions of the game; those of narrowed games count as fractions.
    """


@hookspec
def shapcut_plan_ready(plan: "RemovalPlan") -> str | None:
    """Called before anything is removed; return a reason to veto the plan."""


@hookspec
def shapcut_model_pruned(model: "nn.Module", plan: "RemovalPlan") -> None:
    """Called after the removal and before the first post-pruning step."""


@hookspec
def shapcut_step_finished(name: str, model: "nn.Module") -> None:
    """Called after each post-pruning step."""


@hookspec
def shapcut_run_finished(run: "Run", hook: pluggy.HookRelay) -> None:
    """Called after all files of a run are written, including the manifest.

    ``hook`` calls the hooks of all plugins, such as ``hook.shapcut_report_sections(run=run)``.
    """


@hookspec
def shapcut_comparison_finished(run: "Run") -> None:
    """Called after ``shapcut compare`` has written ``comparison.json``."""


@hookspec
def shapcut_serving_checked(run: "Run", hook: pluggy.HookRelay) -> None:
    """Called after ``shapcut serve-check`` has written ``serve.json`` into the directory of a finished run.

    ``hook`` calls the hooks of all plugins, as in `shapcut_run_finished`.
    """


@hookspec
def shapcut_report_sections(run: "Run") -> Sequence[tuple[str, str]]:  # type: ignore[empty-body]
    """Called when a report is written: return (heading, HTML body) pairs to append."""
