"""Checks that impossible requests are refused, with a reason, before the model is touched."""

from functools import partial
from typing import Any, get_args

from torch import nn

from shapcut.game.checkpoint_form import CheckpointForm
from shapcut.game.coalitions import Player
from shapcut.support.errors import UnsupportedModelError
from shapcut.testing.case import Case
from shapcut.testing.comparison import identical, require
from shapcut.testing.snapshot import changed, structure


def bad_indices_raise_first(case: Case) -> str:
    """Bad indices raise before the model is touched."""
    n_players = len(case.players)
    model = case.fresh()
    before = structure(model)
    for wrong in ({-1}, {n_players}, {0, n_players + 3}):
        _require_raises(IndexError, lambda w=wrong: case.remove(model, w), f"remove {wrong}")
        _require_raises(IndexError, lambda w=wrong: case.bypassing(model, w), f"bypass {wrong}")
        _require_whole(case, model, before, f"indices {sorted(wrong)}")
    return "in remove and bypass"


def refusals_have_reasons(case: Case) -> str:
    """A refused removal has a one-line reason and raises before the model is touched."""
    model = case.fresh()
    before = structure(model)
    for player in case.players:
        _require_consistent(case, player)
    everyone = frozenset(range(len(case.players)))
    refused = {absent: reason for absent, reason in case.requests.items() if reason is not None}
    refused[everyone] = case.refusal(case.model, everyone) or ""
    for absent, reason in refused.items():
        what = f"removing {sorted(absent)}"
        require(reason.strip(), f"{what} is refused without a reason")
        require("\n" not in reason, f"{what}: the reason has several lines")
        _require_raises(UnsupportedModelError, lambda a=absent: case.remove(model, a), what)
    _require_whole(case, model, before, "refusing removals")
    return f"{len(refused)} of {len(case.requests) + 1} sets refused"


def forms_are_as_refused(case: Case) -> str:
    """A set has a plain form exactly if it is not refused; other forms raise before the model is touched."""
    adapter, granularity, model = case.adapter, case.granularity, case.fresh()
    before = structure(model)
    seen: set[str] = set()
    for absent in case.requests:
        forms = adapter.checkpoint_forms(model, absent, granularity)
        refusal = adapter.can_remove(model, absent, granularity)
        plain = any(form != "remote-code" for form in forms)
        problem = f"{sorted(absent)} has the forms {forms}, and can_remove says {refusal!r}"
        require(plain == (refusal is None), problem)
        for form in set(get_args(CheckpointForm)).difference(forms):
            request = partial(adapter.remove_as, model, absent, granularity, form)
            _require_raises(UnsupportedModelError, request, f"remove {sorted(absent)} as {form}")
        seen.update(forms)
    _require_whole(case, model, before, "refusing forms")
    return ", ".join(sorted(seen)) or "no form"


def _require_consistent(case: Case, player: Player) -> None:
    if player.removable:
        return
    require(player.reason, f"{player.name} cannot be removed, and does not say why")
    refusal = case.refusal(case.model, {player.index})
    require(
        refusal is not None, f"{player.name} is said not to be removable, but can_remove has no objection"
    )


def _require_raises(kind: type[Exception], request: Any, what: str) -> None:
    try:
        request()
    except kind:
        return
    require(condition=False, problem=f"{what}: no {kind.__name__}")


def _require_whole(case: Case, model: nn.Module, before: dict[str, Any], what: str) -> None:
    difference = changed(before, structure(model))
    require(not difference, f"{what}: the model was touched: {difference}")
    require(identical(case.logits(model), case.full), f"{what}: the model computes something else")
