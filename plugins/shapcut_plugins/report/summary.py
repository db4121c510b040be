"""The findings of a run in plain sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shapcut.contracts import RemovalPlan, apart
from shapcut_plugins.report.charts.pairs import Pairs, normal_quantile
from shapcut_plugins.report.figures import change
from shapcut_plugins.report.run_data import Change, ContributionFacts, Result, RunFacts, number

_CHANCE = 0.5
_MOST_LISTED = 16


def outcome(result: Result) -> list[str]:
    """The removed players of a cut, and its effect as far as it exceeds its uncertainty."""
    plan, dense, pruned = result.plan, result.dense, result.pruned
    share = _ratio(pruned.get("parameters"), dense.get("parameters"))
    removed = f"{len(plan.removed)} of {len(plan.removed) + len(plan.kept)} {plan.what} were removed"
    sentences = [f"{removed}, and with them {1 - share:.1%} of the parameters." if share else f"{removed}."]
    if result.steps:
        sentences.append(f"After the cut: {', then '.join(result.steps)}.")
    before, after = result.perplexities
    if before is not None and after is not None:
        sentences.append(_quality(before, after, result))
    decode = _ratio(_inside(pruned, "latency", "decode_seconds"), _inside(dense, "latency", "decode_seconds"))
    if decode:
        sentences.append(_speed(decode, result.changes.get("latency.decode_seconds")))
    return sentences


def _quality(before: float, after: float, result: Result) -> str:
    found = result.changes.get("perplexity.perplexity")
    first, last = apart([before, after], "{:,.2f}")
    name = result.dense.get("held_out_source")
    which = f"held-out text ({name})" if isinstance(name, str) else "held-out text"
    text = f"Perplexity on {which} went from {first} to {last}"
    if found is None or not found.interval:
        more = change(before, after)
        return f"{text}{f' ({more})' if more else ''}; no interval was recorded."
    if found.told_apart:
        return f"{text} ({change(before, after)}, 95 % interval {found.interval})."
    return f"{text}, which is not told apart from no change (95 % interval {found.interval})."


def _speed(decode: float, found: Change | None) -> str:
    if found is None or not found.interval:
        return f"A further token takes {decode:.0%} of the original's time; no interval was recorded."
    if found.told_apart:
        return (
            f"A further token takes {decode:.0%} of the original's time (95 % interval of the change "
            f"{found.interval})."
        )
    return (
        f"The time of a further token is not told apart from the original's (95 % interval {found.interval})."
    )


def why(plan: RemovalPlan, scored: ContributionFacts | None) -> list[str]:
    """Why this set instead of the lowest contributions."""
    sentences = [f"Why these: {plan.reason}."] if plan.reason else []
    if scored is None or not plan.removed:
        return sentences
    if not contributions_differ(scored):
        return [
            *sentences,
            "No player's contribution is told apart from another's, so none explains the choice.",
        ]
    if plan.layers:
        return [*sentences, _within_layers(plan, scored)]
    ranked = sorted((p for p in scored.players if p.value is not None), key=lambda p: p.value or 0.0)
    lowest = {facts.player for facts in ranked[: len(plan.removed)]}
    among = sorted(lowest & set(plan.removed))
    sentences.append(
        f"{len(among)} of the {len(plan.removed)} removed are among the {len(lowest)} of lowest contribution."
    )
    sentences += _exceptions(plan, scored, lowest)
    return sentences


def _within_layers(plan: RemovalPlan, scored: ContributionFacts) -> str:
    """How many of the removed would have gone by contribution among the players of their own layer."""
    values = {player.player: player.value for player in scored.players}
    first = among = 0
    for layer in plan.by_layer():
        found = [(values.get(first + inside), inside) for inside in range(layer.size)]
        known = sorted((value, inside) for value, inside in found if value is not None)
        lowest = {inside for _, inside in known[: len(layer.removed)]}
        among += len(lowest & {*layer.removed})
        first += layer.size
    return (
        f"{among} of the {len(plan.removed)} removed are among as many of lowest contribution in their "
        "own layer."
    )


def contributions_differ(scored: ContributionFacts) -> bool:
    """Whether the largest contribution exceeds the smallest by more than their standard errors explain."""
    known = [(p.value, p.standard_error) for p in scored.players if p.value is not None]
    if len(known) < 2:  # noqa: PLR2004 - nothing to compare
        return False
    (low, low_error), (high, high_error) = min(known), max(known)
    pairs = len(known) * (len(known) - 1) // 2
    error = math.hypot(low_error or 0.0, high_error or 0.0)
    return high - low > normal_quantile(pairs) * error


def interaction(pairs: Pairs) -> str:
    """What is told apart among the interactions; empty without interactions."""
    if not pairs.every:
        return ""
    if not pairs.errors_known:
        return "This run recorded no uncertainty of its interactions; repeat it to see which exceed theirs."
    values = [pair.value for pair in pairs.every]
    low, mean, high = apart([min(values), pairs.mean, max(values)], "{:+.3g}")
    if not pairs.told_apart:
        spread = f"all {len(values)} lie between {low} and {high}" if low != high else f"all are {low}"
        return f"No interaction is told apart from the others: {spread}, within their uncertainty."
    first = pairs.told_apart[0]
    value, mean = apart([first.value, pairs.mean], "{:+.3g}")
    meaning = (
        "they stand in for each other more than others do, so that losing both costs more"
        if first.distance < 0
        else "losing both costs less, beyond what each costs alone, than with other pairs"
    )
    return (
        f"{len(pairs.told_apart)} of {len(values)} interactions are told apart from the mean of all, {mean}. "
        f"The furthest estimate is that of {first.one} and {first.other} ({value}, standard error of the "
        f"distance {first.error:.2g}): {meaning}."
    )


def trust(scored: ContributionFacts) -> list[str]:
    """Cautions from the stability figures."""
    sentences = []
    robust = scored.robustness
    if not contributions_differ(scored):
        sentences.append("No player's contribution is told apart from another's.")
    if robust and _low(robust.rank_stability_kendall):
        sentences.append("Other draws of coalitions rank the players differently: a larger --budget helps.")
    if robust and scored.halves_tell and _low(robust.calibration_halves.kendall):
        sentences.append("The two halves of the text rank the players differently: more --samples help.")
    return sentences


def cost(facts: RunFacts) -> str:
    """The cost of the run."""
    phases = facts.manifest.phases.values()
    spent = [phase.cost for phase in phases if phase.cost is not None]
    seconds = sum(phase.seconds for phase in phases)
    if not spent:
        return f"{seconds:,.1f} seconds in all."
    return (
        f"{max(c.evaluations for c in spent):,} coalitions were valued, "
        f"{max(c.tokens for c in spent):,} tokens processed for that, in {seconds:,.1f} seconds."
    )


def _exceptions(plan: RemovalPlan, scored: ContributionFacts, lowest: set[int]) -> list[str]:
    spared, extra = sorted(lowest - set(plan.removed)), sorted(set(plan.removed) - lowest)
    if not spared:
        return []
    if not _ranked_apart(scored, spared, extra):
        return [
            f"{_listed(spared)} would have gone by the estimates of single players, which are not told apart "
            f"from those of {_listed(extra)}."
        ]
    text = (
        f"{_listed(spared)} would have gone by contribution alone; {_listed(extra)} went instead, "
        "because sets were judged whole, not player by player"
    )
    if scored.interactions and scored.interaction_errors:
        stay, go = (_strain(scored.interactions, players, plan.removed) for players in (spared, extra))
        doubt = sum(_strain(scored.interaction_errors, players, plan.removed) for players in (spared, extra))
        if abs(stay - go) > normal_quantile(1) * doubt:
            first, last = apart([stay, go], "{:+.3g}")
            text += f" (mean interaction with the other removed ones: {first} against {last})"
    return [text + "."]


def _ranked_apart(scored: ContributionFacts, spared: Sequence[int], extra: Sequence[int]) -> bool:
    """Whether each of ``extra`` has a larger contribution than each of ``spared``, beyond their errors."""
    known = {p.player: (p.value or 0.0, p.standard_error or 0.0) for p in scored.players}
    factor = normal_quantile(len(spared) * len(extra))
    return all(
        known[more][0] - known[less][0] > factor * math.hypot(known[more][1], known[less][1])
        for more in extra
        for less in spared
    )


def _strain(
    interactions: Sequence[Sequence[float | None]], players: Sequence[int], removed: Sequence[int]
) -> float:
    """Mean over pairs; of standard errors, a bound on that of the mean whatever their correlation."""
    found = [interactions[one][other] or 0.0 for one in players for other in removed if one != other]
    return sum(found) / max(1, len(found))


def _low(tau: float | None) -> bool:
    return tau is not None and tau < _CHANCE


def _listed(players: Sequence[int]) -> str:
    """The players, or the first few of many."""
    more = len(players) - _MOST_LISTED
    return ", ".join(map(str, players[:_MOST_LISTED])) + (f" and {more} more" if more > 0 else "")


def _inside(content: Mapping[str, Any], first: str, second: str) -> Any:
    part = content.get(first)
    return part.get(second) if isinstance(part, Mapping) else None


def _ratio(after: Any, before: Any) -> float | None:
    one, other = number(after), number(before)
    return one / other if one is not None and other else None
