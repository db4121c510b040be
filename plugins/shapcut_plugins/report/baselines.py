"""Other methods beside a run's own cuts, from a comparison on the same model and held-out text."""

from dataclasses import dataclass

from shapcut.contracts import InputError, Run
from shapcut_plugins.report.comparison_data import Method, method_cuts, read_comparison
from shapcut_plugins.report.run_data import Cut, RunFacts


@dataclass(frozen=True, slots=True)
class Baselines:
    """The results of other methods.

    Attributes:
        place: the comparison's location.
        methods: in the order of the comparison.
    """

    place: str
    methods: tuple[Method, ...]


def own_cuts(facts: RunFacts) -> list[Cut]:
    """The run's own cuts, the whole model first; may be empty."""
    if facts.manifest.series is not None:
        points = facts.manifest.series.curve
        return [Cut.of(point.removed, [point.held_out_perplexity]) for point in points]
    result = facts.manifest.result
    if result is None:
        return []
    sizes = (0, len(result.plan.removed))
    pairs = zip(sizes, result.perplexities, strict=True)
    return [Cut.of(size, [perplexity]) for size, perplexity in pairs if perplexity is not None]


def read_baselines(facts: RunFacts, directory: Run) -> Baselines:
    """The methods of a comparison, to show beside a run.

    Raises:
        InputError: if it cannot be read, or is of another model or held-out text than the run.
    """
    comparison = read_comparison(directory.comparison)
    place = str(directory.directory)
    if comparison.model.players != facts.manifest.model.players:
        raise InputError(
            f"{place} compares methods on a model of {comparison.model.players} players, this run's has "
            f"{facts.manifest.model.players}"
        )
    texts = {result.dense.get("held_out_fingerprint") for result in facts.cuts.values()}
    if texts != {comparison.text.held_out_fingerprint}:
        raise InputError(
            f"{place} was judged on other held-out text than this run; give both the same --calibration, "
            "--sequence-length and --held-out-samples"
        )
    return Baselines(place, method_cuts(comparison))
