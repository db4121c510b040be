"""The figures of one model, or of two side by side, as rows of a table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shapcut.game.interval import Ratio
from shapcut.measurement.latency import LatencyResult
from shapcut.measurement.paired_accuracy import PairedDifference, paired_differences
from shapcut.measurement.perplexity import PerplexityResult
from shapcut.measurement.record import ModelMeasurement, TaskScore, changes

_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a model.

    Attributes:
        key: its name for programs.
        label: its name for people.
        value: the figure, or None if there is none.
        form: how it is printed.
        scale: what it is divided by when it is printed.
        compared: whether a ratio says something.
        text: the source of the other text that it is of, or None.
    """

    key: str
    label: str
    value: Callable[[ModelMeasurement], float | None]
    form: str = "{:,.1f}"
    scale: float = 1.0
    compared: bool = True
    text: str | None = None

    def cell(self, measurement: ModelMeasurement) -> str:
        """The figure of one model; empty if there is none."""
        value = self.value(measurement)
        return "" if value is None else self.form.format(value / self.scale)


def figures(measurements: Sequence[ModelMeasurement]) -> list[Figure]:
    """The figures that at least one of the models has, in the order of the table."""
    every = [
        Figure("perplexity", "perplexity", lambda m: m.perplexity.perplexity, "{:.3f}"),
        Figure("nats_per_token", "nats per token", lambda m: m.perplexity.nats_per_token, "{:.4f}"),
        *_other_texts(measurements),
        Figure("tokens", "tokens predicted", lambda m: m.perplexity.n_tokens, "{:,.0f}", compared=False),
        Figure("parameters", "parameters", lambda m: m.parameters, "{:,.0f}"),
        Figure("checkpoint_bytes", "checkpoint files (MB)", lambda m: m.checkpoint_bytes, scale=_MEGABYTE),
        Figure("weight_bytes", "weights in memory (MB)", lambda m: m.weight_bytes, scale=_MEGABYTE),
        Figure(
            "peak_memory_bytes",
            "peak memory of the process (MB)",
            lambda m: m.peak_memory_bytes,
            "{:,.0f}",
            _MEGABYTE,
        ),
        *_speed_figures(measurements),
        *_cache_figures(measurements),
    ]
    return [figure for figure in every if any(figure.value(each) is not None for each in measurements)]


def figure_rows(measurements: Sequence[ModelMeasurement]) -> list[list[str]]:
    """One row a figure: its name, each model's, and of two the ratio of the last to the first."""
    first = measurements[-1]
    window = f"{first.sequence_length} tokens"
    window += f", every {first.stride}" if first.stride else ""
    rows = [
        ["text", *(each.held_out_source for each in measurements)],
        ["window", *(window + (", BOS first" if m.adds_bos else "") for m in measurements)],
    ]
    found = ratios(measurements)
    uncertain = intervals(measurements) if len(measurements) > 1 else {}
    for figure in figures(measurements):
        rows.append([figure.label, *(figure.cell(each) for each in measurements)])
        if len(measurements) > 1:
            ratio = found.get(figure.key)
            rows[-1] += ["" if ratio is None else f"{ratio:.3f}", _ends(uncertain.get(figure.key))]
        if figure.key == "perplexity":
            rows.append(["its 95 % interval", *(_ends_of(each.perplexity) for each in measurements)])
        elif figure.text is not None:
            read = [each.other_text(figure.text) for each in measurements]
            ends = ("" if each is None else _ends_of(each.perplexity) for each in read)
            rows.append(["its 95 % interval", *ends])
    width = max(map(len, rows))
    return [row + [""] * (width - len(row)) for row in rows]


def intervals(measurements: Sequence[ModelMeasurement]) -> dict[str, Ratio]:
    """Each uncertain figure of the last model over the first one's, with its interval."""
    names = {"perplexity.perplexity": "perplexity"}
    found = changes(measurements[0], measurements[-1])
    names |= {each.figure: each.figure for each in measurements[-1].other_texts}
    return {names.get(path, path.rpartition(".")[2]): ratio for path, ratio in found.items()}


def _other_texts(measurements: Sequence[ModelMeasurement]) -> list[Figure]:
    texts = {each.source: each.figure for m in measurements for each in m.other_texts}

    def on(source: str) -> Callable[[ModelMeasurement], float | None]:
        def value(measurement: ModelMeasurement) -> float | None:
            found = measurement.other_text(source)
            return None if found is None else found.perplexity.perplexity

        return value

    return [Figure(name, name, on(source), "{:.3f}", text=source) for source, name in texts.items()]


def _ends_of(read: PerplexityResult) -> str:
    interval = read.interval
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _ends(ratio: Ratio | None) -> str:
    if ratio is None or ratio.interval is None:
        return ""
    ends = f"{ratio.interval.low:.3f} to {ratio.interval.high:.3f}"
    return ends if ratio.told_apart else f"{ends}: not told apart"


def ratios(measurements: Sequence[ModelMeasurement]) -> dict[str, float]:
    """Each figure of the last model divided by the first one's, where both have it."""
    found = {}
    for figure in figures(measurements):
        values = [figure.value(each) for each in (measurements[0], measurements[-1])]
        if figure.compared and (ratio := _ratio(*values)) is not None:
            found[figure.key] = ratio
    return found


def task_rows(measurements: Sequence[ModelMeasurement]) -> list[list[str]]:
    """One row a metric of a task: its value of each model with the standard error, and of two the ratio."""
    scores: list[dict[str, TaskScore]] = [
        {score.task: score for score in each.tasks or ()} for each in measurements
    ]
    rows = []
    for task, metric in dict.fromkeys((t, m) for each in scores for t, s in each.items() for m in s.metrics):
        own = [each.get(task) for each in scores]
        row = [task, metric, *("" if score is None else _score(score, metric) for score in own)]
        if len(measurements) > 1:
            first, last = (None if s is None else s.metrics.get(metric) for s in (own[0], own[-1]))
            ratio = _ratio(first, last)
            row.append("" if ratio is None else f"{ratio:.3f}")
        rows.append(row)
    return rows


def differences(measurements: Sequence[ModelMeasurement]) -> tuple[PairedDifference, ...]:
    """Of two models' accuracies on the same questions, the last model's minus the first one's."""
    if len(measurements) == 1:
        return ()
    return paired_differences(measurements[0].tasks, measurements[-1].tasks)


def difference_rows(paired: Sequence[PairedDifference]) -> list[list[str]]:
    """One row a difference, in percentage points."""
    return [
        [
            each.task,
            each.metric,
            f"{each.questions:,}",
            f"{each.before:.1%}",
            f"{each.after:.1%}",
            f"{100 * each.difference:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})",
            f"+{each.gained} -{each.lost}",
        ]
        for each in paired
    ]


def _speed_figures(measurements: Sequence[ModelMeasurement]) -> list[Figure]:
    timed = next((each.latency for each in measurements if each.latency is not None), None)
    if timed is None:
        return []

    def of(value: Callable[[LatencyResult], float | None]) -> Callable[[ModelMeasurement], float | None]:
        return lambda m: None if m.latency is None else value(m.latency)

    batch = f", {timed.batch_size} at a time" if timed.batch_size > 1 else ""
    prefill = f"prefill of {timed.prompt_tokens} tokens{batch}"
    decode = f"decode of {timed.new_tokens} tokens after them{batch}"
    return [
        Figure("prefill_seconds", f"{prefill} (ms)", of(lambda t: t.prefill_seconds * 1e3)),
        Figure("prefill_rate", "prefill (tokens/s)", of(lambda t: t.prefill_tokens_per_second)),
        Figure("decode_seconds", f"{decode} (ms/token)", of(lambda t: t.decode_seconds * 1e3), "{:.2f}"),
        Figure("decode_rate", "decode (tokens/s)", of(lambda t: t.decode_tokens_per_second)),
    ]


def _cache_figures(measurements: Sequence[ModelMeasurement]) -> list[Figure]:
    lengths = dict.fromkeys(n for each in measurements if each.caches for n in each.caches.lengths)

    def at(length: int) -> Callable[[ModelMeasurement], float | None]:
        def size(measurement: ModelMeasurement) -> float | None:
            known = measurement.caches
            return None if known is None else dict(zip(known.lengths, known.sizes, strict=True)).get(length)

        return size

    batch = next((each.caches.batch_size for each in measurements if each.caches), 1)
    of = f" of {batch} sequences" if batch > 1 else ""
    return [
        Figure(f"cache_bytes_{n}", f"cache{of} after {n} tokens (MB)", at(n), "{:,.3f}", _MEGABYTE)
        for n in lengths
    ]


def _score(score: TaskScore, metric: str) -> str:
    value = f"{score.metrics[metric]:.4f}" if metric in score.metrics else ""
    return f"{value} ± {score.errors[metric]:.4f}" if metric in score.errors else value


def _ratio(first: float | None, last: float | None) -> float | None:
    if first is None or last is None or first == 0.0:
        return None
    ratio = last / first
    return ratio if math.isfinite(ratio) else None
