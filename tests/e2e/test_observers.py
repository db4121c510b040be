"""A run calls the hooks that watch it, in the order in which docs/hooks.md has them."""

from pathlib import Path
from typing import Any

from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe

ROOT = Path(__file__).parents[2]


class Observer:
    """Notes which hook was called, and with what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    @hookimpl
    def shapcut_run_started(self, run: Any) -> None:
        self.seen.append(("shapcut_run_started", run.directory.is_dir()))

    @hookimpl
    def shapcut_coalitions_evaluated(self, coalitions: Any, values: Any, total: int) -> None:
        assert len(coalitions) == len(values) <= 2 * total + 1  # on half of the text at least
        if self.seen[-1][0] != "shapcut_coalitions_evaluated":
            self.seen.append(("shapcut_coalitions_evaluated", coalitions.shape[1]))

    @hookimpl
    def shapcut_plan_ready(self, plan: Any) -> None:
        self.seen.append(("shapcut_plan_ready", len(plan.removed)))

    @hookimpl
    def shapcut_model_pruned(self, model: Any, plan: Any) -> None:
        assert len(plan.removed) == 2
        self.seen.append(("shapcut_model_pruned", model.config.num_hidden_layers))

    @hookimpl
    def shapcut_step_finished(self, name: str, model: Any) -> None:
        self.seen.append(("shapcut_step_finished", (name, str(model.dtype))))

    @hookimpl
    def shapcut_run_finished(self, run: Any) -> None:
        self.seen.append(("shapcut_run_finished", run.manifest.is_file()))


def test_a_run_calls_its_observers_in_order(tiny_llama_directory: Path, tmp_path: Path) -> None:
    observer = Observer()
    sizes = {"budget": 12, "samples": 2, "sequence_length": 16, "finalist_samples": 0, "held_out_samples": 2}
    recipe = make_recipe({"model": str(tiny_llama_directory), "remove": 2, "then": ["cast"], **sizes})
    prune(recipe, tmp_path / "out", build_host(extra=[observer]))
    assert observer.seen == [
        ("shapcut_run_started", True),
        ("shapcut_coalitions_evaluated", 6),
        ("shapcut_plan_ready", 2),
        ("shapcut_model_pruned", 4),
        ("shapcut_step_finished", ("cast", "torch.bfloat16")),
        ("shapcut_run_finished", True),
    ]
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    places = [page.index(f"## {hook}\n") for hook, _ in observer.seen]
    assert places == sorted(places)
