"""Finished runs for experiment trackers, through the trackers' own functions."""

import importlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from shapcut.contracts import Run, read_json

TRACKERS = "SHAPCUT_TRACKERS"
"""The variable that names the trackers, with commas between."""

_PROJECT = "shapcut"
_REFUSED_BY_MLFLOW = re.compile(r"[^\w./-]")
_LOG = logging.getLogger("shapcut.trackers")


def track(run: Run) -> None:
    """Send a finished run's options and figures to every tracker that the environment names.

    A tracker that is unknown, missing or fails is reported and ends no run: its result is already written.
    """
    names = [name.strip() for name in os.environ.get(TRACKERS, "").split(",") if name.strip()]
    if not names:
        return
    content = read_json(run.manifest)
    options = {key: value for key, value in content["recipe"].items() if value is not None}
    for name in names:
        if name not in _SENDERS:
            _LOG.warning("%s names %r; known are %s", TRACKERS, name, ", ".join(_SENDERS))
            continue
        try:
            _SENDERS[name](run.directory.name, options, figures(content))
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything
            _LOG.warning("the run is not in %s: %s: %s", name, type(error).__name__, error)


def figures(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The figures of every cut, by names such as ``pruned/perplexity``, ``ratio-0.1/perplexity/general``."""
    series = manifest.get("series")
    if series is not None:
        results = series["results"]
    else:
        results = {"pruned": manifest["result"]} if manifest.get("result") else {}
    found: dict[str, float] = {
        "seconds": sum(float(phase.get("seconds", 0.0)) for phase in manifest["phases"].values())
    }
    for label, result in results.items():
        models = {"dense": result["dense"], label: result["pruned"]}
        for name, model in models.items():
            found[f"{name}/perplexity"] = float(model["perplexity"]["perplexity"])
            found[f"{name}/parameters"] = float(model["parameters"])
            for text in model.get("other_texts", ()):
                source = str(text["source"]).replace("/", "_")  # a slash groups figures
                found[f"{name}/perplexity/{source}"] = float(text["perplexity"]["perplexity"])
        for each in result.get("differences", ()):
            found[f"dense/{each['task']}/{each['metric']}"] = float(each["before"])
            found[f"{label}/{each['task']}/{each['metric']}"] = float(each["after"])
    return found


def _like_wandb(package: str) -> Callable[[str, dict[str, Any], dict[str, float]], None]:
    """wandb, and trackio, which has the same functions."""

    def send(name: str, options: dict[str, Any], found: dict[str, float]) -> None:
        module: Any = importlib.import_module(package)
        project = os.environ.get(f"{package.upper()}_PROJECT", _PROJECT)
        module.init(project=project, name=name, config=options)
        module.log(found)
        module.finish()

    return send


def _mlflow(name: str, options: dict[str, Any], found: dict[str, float]) -> None:
    module: Any = importlib.import_module("mlflow")
    with module.start_run(run_name=name):
        module.log_params(options)
        module.log_metrics({_REFUSED_BY_MLFLOW.sub("_", key): value for key, value in found.items()})


_SENDERS: dict[str, Callable[[str, dict[str, Any], dict[str, float]], None]] = {
    "wandb": _like_wandb("wandb"),
    "mlflow": _mlflow,
    "trackio": _like_wandb("trackio"),
}
