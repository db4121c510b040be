"""The findings of a run in plain sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from shapcut.contracts import RemovalPlan
from shapcut_plugins.report.charts.pairs import strongest_pairs
from shapcut_plugins.report.figures import change
from shapcut_plugins.report.run_data import ContributionFacts, Result, RunFacts, number

_CHANCE = 0.5
_MOST_LISTED = 16


def outcome(result: Result) -> list[str]:
    """The removed players of a cut, and its effect."""
    plan, dense, pruned = result.plan, result.dense, result.pruned
    share = _ratio(pruned.get("parameters"), dense.get("parameters"))
    removed = f"{len(plan.removed)} of {len(plan.removed) + len(plan.kept)} {plan.granularity}s were removed"
    sentences = [f"{removed}, and with them {1 - share:.1%} of the parameters." if share else f"{removed}."]
    before, after = result.perplexities
    if before is not None and after is not None:
        more = change(before, after)
        more = f" ({more})" if more else ""
        sentences.append(f"Perplexity on held-out text went from {before:,.2f} to {after:,.2f}{more}.")
    decode = _ratio(_inside(pruned, "latency", "decode_seconds"), _inside(dense, "latency", "decode_seconds"))
    if decode:
        sentences.append(f"A further token takes {decode:.0%} of the original's time.")
    return sentences


def why(plan: RemovalPlan, scored: ContributionFacts | None) -> list[str]:
    """Why this set instead of the lowest contributions."""
    sentences = [f"Why these: {plan.reason}."] if plan.reason else []
    if scored is None or not plan.removed:
        return sentences
    ranked = sorted((p for p in scored.players if p.value is not None), key=lambda p: p.value or 0.0)
    lowest = {facts.player for facts in ranked[: len(plan.removed)]}
    among = sorted(lowest & set(plan.removed))
    sentences.append(
        f"{len(among)} of the {len(plan.removed)} removed are among the {len(lowest)} of lowest contribution."
    )
    sentences += _exceptions(plan, scored, lowest)
    return sentences


def interaction(scored: ContributionFacts) -> str:
    """The meaning of the strongest interaction; empty without interactions."""
    pairs = strongest_pairs(scored.interactions or (), scored.fixed)
    if not pairs or pairs[0][2] == 0.0:
        return ""
    one, other, value = pairs[0]
    meaning = (
        "they stand in for each other, so that losing both costs more than each alone would suggest"
        if value < 0
        else "losing both costs less than each alone would suggest"
    )
    return f"The strongest interaction is between {one} and {other} ({value:+.3g}): {meaning}."


def trust(scored: ContributionFacts) -> list[str]:
    """Cautions from the stability figures."""
    sentences = []
    robust, fidelity = scored.robustness, scored.fidelity_held_out
    if fidelity and fidelity.spearman is not None and fidelity.spearman < _CHANCE:
        sentences.append(
            "The surrogate orders unseen coalitions poorly: trust measured values, not predicted ones."
        )
    if robust and _low(robust.rank_stability_kendall):
        sentences.append("Other draws of coalitions rank the players differently: a larger --budget helps.")
    if robust and _low(robust.calibration_halves.kendall):
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
    text = (
        f"{_listed(spared)} would have gone by contribution alone; {_listed(extra)} went instead, "
        "because sets were judged whole, not player by player"
    )
    if scored.interactions:
        stay, go = (_strain(scored.interactions, players, plan.removed) for players in (spared, extra))
        if stay != go:
            text += f" (mean interaction with the other removed ones: {stay:+.3g} against {go:+.3g})"
    return [text + "."]


def _strain(
    interactions: Sequence[Sequence[float | None]], players: Sequence[int], removed: Sequence[int]
) -> float:
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
