"""The form in which a model without some players is written."""

from collections.abc import Collection, Sequence

from torch import nn

from shapcut.game.checkpoint_form import AllowedForm, CheckpointForm
from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.game.mixed import by_layer, mixed_layers
from shapcut.models.adapter import Adapter


def chosen_form(
    adapter: Adapter,
    model: nn.Module,
    absent: Collection[int],
    granularity: Granularity,
    allowed: AllowedForm = "plain",
) -> CheckpointForm | None:
    """The best allowed form, or None if the set cannot be removed so."""
    forms = adapter.checkpoint_forms(model, absent, granularity)
    return next((form for form in forms if form != "remote-code" or allowed == "remote-code"), None)


def form_objection(
    adapter: Adapter,
    model: nn.Module,
    absent: Collection[int],
    granularity: Granularity,
    allowed: AllowedForm = "plain",
) -> str | None:
    """Why a set cannot be removed in an allowed form, as one sentence, or None if it can."""
    if chosen_form(adapter, model, absent, granularity, allowed) is not None:
        return None
    objection = adapter.can_remove(model, absent, granularity)
    return objection or "the adapter names no form in which a checkpoint can lack these players"


def form_note(form: CheckpointForm, removed: nn.Module) -> str:
    """What a user must know of a form, as one sentence; empty if nothing.

    Args:
        form: the form.
        removed: the model without the players.
    """
    if form == "remote-code":
        return "the checkpoint has a modelling file of its own: it loads with trust_remote_code=True"
    if form == "sibling":
        kind = getattr(getattr(removed, "config", None), "model_type", type(removed).__name__)
        return f"the checkpoint is a {kind} one now: tiny zeroed weights take the place of some players"
    return ""


def remnants_of_players(
    adapter: Adapter,
    model: nn.Module,
    players: Sequence[Player],
    granularity: Granularity,
    allowed: AllowedForm = "plain",
) -> list[int]:
    """The number of parameters that stay in the place of each player; those of a set add up.

    What stays of an MLP goes with an attention, and what stays of a MoE part with the rest of its layer:
    these have negative numbers. With a modelling file, a set may leave less than its players add up to.
    """
    if granularity == "mixed":
        return _remnants_of_mixtures(adapter, model, players, allowed)
    if granularity != "sublayer":
        return [0] * len(players)
    kept = _remnants_alone(adapter, model, players, allowed)
    if allowed == "plain":
        for members in by_layer(players).values():
            mlps = [kept[player.index] for player in members if player.kind == "mlp"]
            for player in members:
                if player.kind != "mlp":
                    kept[player.index] = -sum(mlps)
    return kept


def _remnants_alone(
    adapter: Adapter, model: nn.Module, players: Sequence[Player], allowed: AllowedForm
) -> list[int]:
    """What stays of each part of a block if it alone is removed; 0 if it cannot be."""
    kept = []
    for player in players:
        form = chosen_form(adapter, model, [player.index], "sublayer", allowed) if player.removable else None
        kept.append(0 if form is None else adapter.remnants(model, [player.index], "sublayer", form))
    return kept


def _remnants_of_mixtures(
    adapter: Adapter, model: nn.Module, players: Sequence[Player], allowed: AllowedForm
) -> list[int]:
    kept = [0] * len(players)
    for layer in mixed_layers(players):
        rest = [part for part in layer.parts if part != layer.owner]
        form = (
            chosen_form(adapter, model, layer.mixture, "mixed", allowed) if layer.mixture and rest else None
        )
        if form is not None:
            stays = adapter.remnants(model, layer.mixture, "mixed", form)
            kept[layer.mixture[0]], kept[rest[0]] = stays, -stays
    return kept
