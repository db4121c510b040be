"""Comparisons on several models, and their rows as a table."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shapcut.comparison.compare import Comparison
from shapcut.support.errors import InputError

_COLUMNS = (
    *("method", "n_remove", "seed", "removed", "held_out_perplexity", "calibration_nats"),
    *("evaluations", "tokens", "seconds", "estimator", "selector", "utility", "budget", "failure"),
)


def compare_models(
    models: Sequence[str], run: Path | None, compare: Callable[[str, Path], Comparison]
) -> dict[str, tuple[Comparison, Path]]:
    """Compare on each model in turn; a second start repeats nothing that is finished.

    Args:
        models: names of the models.
        run: directory of the comparison, or of several models the directory above theirs; None: beside the
            working directory's files, named after the model.
        compare: compares on one model in a directory.

    Raises:
        InputError: if a model is named twice.
    """
    if twice := sorted({model for model in models if models.count(model) > 1}):
        raise InputError(f"the model {twice[0]} is named twice; remove one")
    labels = [Path(model.replace(":", "-")).name for model in models]
    if same := sorted({label for label in labels if labels.count(label) > 1}):
        labels = [f"{number}-{label}" if label in same else label for number, label in enumerate(labels)]
    several = len(models) > 1
    found = {}
    for model, label in zip(models, labels, strict=True):
        directory = Path(f"{label}.compare") if run is None else run / label if several else run
        found[model] = (compare(model, directory), directory)
    return found


def rows_as_csv(comparisons: Iterable[Comparison]) -> str:
    """One line a row: the model first, then accuracy, and last perplexity on each other text."""
    comparisons = list(comparisons)
    others = list(dict.fromkeys(text["source"] for each in comparisons for text in each.facts["other_texts"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    extra = ("dense_perplexity", "accuracy", "accuracy_difference", "accuracy_low", "accuracy_high")
    writer.writerow(("model", *_COLUMNS, *extra, *(f"perplexity on {source}" for source in others)))
    for comparison in comparisons:
        source, dense = comparison.facts["model"]["source"], comparison.facts["dense_held_out_perplexity"]
        for row in comparison.rows:
            cells = {name: getattr(row, name) for name in _COLUMNS} | {
                "removed": " ".join(map(str, row.removed))
            }
            said = row.differences[-1] if row.differences else None
            accuracy = [""] * 4 if said is None else [said.after, said.difference, said.low, said.high]
            elsewhere = [row.on(name).held_out_perplexity for name in others]
            writer.writerow((source, *cells.values(), dense, *accuracy, *elsewhere))
    return text.getvalue()
