"""Checks of the reference semantics: running a model without some of its players."""

from contextlib import suppress

import torch
from torch import Tensor, nn

from shapcut.game.coalitions import Player
from shapcut.testing.case import Case
from shapcut.testing.comparison import identical, require, require_finite
from shapcut.testing.snapshot import addresses, changed, structure, weights

_FEWEST_PLAYERS = 4


def example_is_usable(case: Case) -> str:
    """The adapter matches its example, and the example is random enough to test with."""
    require(case.adapter.matches(case.model), "the adapter does not match its own example")
    require(not case.adapter.matches(nn.Linear(2, 2)), "the adapter claims to match any module")
    n_players = len(case.players)
    require(n_players >= _FEWEST_PLAYERS, f"the example has {n_players} players, at least 4 are needed")
    require([player.index for player in case.players] == list(range(n_players)), "players are not numbered")
    require_finite(case.full, "the example")
    require(float(case.full.std()) > 0, "vacuous: all logits of the example are equal")
    return f"{n_players} players"


def identity_when_all_present(case: Case) -> str:
    """With every player present, the logits are the model's own, bit for bit."""
    require(identical(case.reference(()), case.full), "the logits differ although all players are present")
    return "bit for bit"


def bypass_restores(case: Case) -> str:
    """Closing the context restores the model, also after an exception and when nested."""
    model = case.fresh()
    full, before = case.logits(model), structure(model)
    first, last = {case.probed[0]}, {case.probed[-1]}
    outer = case.bypassed(model, first)
    require(not identical(outer, full), "vacuous: nothing changes while a player is bypassed")
    _require_untouched(case, model, before, "after the context")
    raised = _Interruption()
    with suppress(_Interruption), case.bypass(model, case.present(first)):
        case.logits(model)
        raised.happened = True
        raise raised
    require(raised.happened, "the context cannot be entered twice")
    _require_untouched(case, model, before, "after an exception")
    with case.bypass(model, case.present(first)):
        case.bypassed(model, last)
        require(identical(case.logits(model), outer), "a nested context undoes the outer one")
    _require_untouched(case, model, before, "after nested contexts")
    return "after use, an exception and nesting"


class _Interruption(Exception):  # noqa: N818 - an interruption, not an error
    happened = False


def _require_untouched(case: Case, model: nn.Module, before: dict[str, object], when: str) -> None:
    difference = changed(before, structure(model))
    require(not difference, f"{when}: not as before: {difference}")
    require(identical(case.logits(model), case.full), f"{when}: the model computes something else")


def bypass_copies_no_weights(case: Case) -> str:
    """No parameter is moved, copied or overwritten while players are bypassed."""
    model = case.fresh()
    case.logits(model)
    where, what = addresses(model), weights(model)
    require(where, "vacuous: the example has no parameters")
    with case.bypass(model, case.present({case.probed[0], case.probed[-1]})):
        case.logits(model)
        require(addresses(model) == where, "parameters were moved or replaced")
        during = weights(model)
    overwritten = [name for name, tensor in what.items() if not torch.equal(tensor, during[name])]
    require(not overwritten, f"overwritten while bypassed: {', '.join(overwritten[:3])}")
    return f"{len(where)} parameters"


def absent_is_ignored(case: Case) -> str:
    """NaN in an absent player's weights changes nothing."""
    model = case.fresh()
    for player in (case.players[index] for index in case.probed):
        model = case.intact(model)
        clean = case.reference({player.index})
        healthy = poison(case, model, player)
        require(not case.logits(model).isfinite().all(), f"vacuous: {player.name} has no weights that matter")
        poisoned = case.bypassed(model, {player.index})
        require(identical(clean, poisoned), f"the weights of absent {player.name} change the logits")
        with torch.no_grad():
            for weight, values in healthy:
                weight.copy_(values)
    return f"{len(case.probed)} players poisoned"


def poison(case: Case, model: nn.Module, player: Player) -> list[tuple[Tensor, Tensor]]:
    """Fill the weights that only this player uses with NaN; returns them with their old values."""
    own = case.adapter.player_weights(model, player)
    healthy = [(weight, weight.clone()) for weight in own]
    with torch.no_grad():
        for weight in own:
            weight.fill_(torch.nan)
    return healthy


def each_absence_matters(case: Case) -> str:
    """Every single absence that is tried changes the logits visibly."""
    comparison = case.comparison()
    effects = [comparison.effect(case.reference({i}), f"without player {i}") for i in case.probed]
    return f"smallest effect {min(effects):.2g}, largest logit {float(case.full.abs().max()):.2g}"


def first_forward_inside_bypass(case: Case) -> str:
    """A model that has never run gives the same logits and is restored afterwards."""
    comparison = case.comparison()
    for absent in ({case.probed[0]}, {case.probed[-1]}):
        reference = case.reference(absent)
        effect = comparison.effect(reference, f"without {sorted(absent)}")
        model = case.fresh()
        comparison.same(case.bypassed(model, absent), reference, effect, "first forward pass inside")
        require(identical(case.logits(model), case.full), "the model computes something else afterwards")
    return comparison.summary()
