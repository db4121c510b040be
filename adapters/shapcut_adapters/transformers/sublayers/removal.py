"""Which sets of parts can be written, in which forms, and the model without them."""

from collections.abc import Collection, Mapping

from torch import nn

from shapcut.contracts import CheckpointForm, UnsupportedModelError
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.removal import blocks_objection, remove_blocks
from shapcut_adapters.transformers.sublayers.kept_parts import KeptParts
from shapcut_adapters.transformers.sublayers.players import SubLayers
from shapcut_adapters.transformers.sublayers.remote_code import remote_objection, with_own_code
from shapcut_adapters.transformers.sublayers.shift_check import mlp_children, shift_fault
from shapcut_adapters.transformers.sublayers.shifts import shift, shift_objection
from shapcut_adapters.transformers.sublayers.sibling import as_sibling, remnants, sibling_objection

Objections = Mapping[CheckpointForm, str]
"""Why a set cannot be written in each form; empty if it can."""


def form_objections(sublayers: SubLayers, absent: Collection[int]) -> Objections:
    """Each form, best first, with what speaks against it.

    Raises:
        IndexError: if an index names no player.
    """
    decoder = sublayers.decoder
    stages = sublayers.stages()
    gone = checked_indices(absent, stages[-1].stop)
    whole = frozenset(index for index, stage in enumerate(stages) if gone.issuperset(stage))
    if gone == {player for index in whole for player in stages[index]}:
        depth = len(stages)
        return {"same": blocks_objection(decoder, Cut(depth, _others(depth, whole)))}
    if objection := _structure_objection(sublayers):
        return {"same": objection}
    kept = KeptParts.without(len(stages), gone)
    return {
        "same": _same_objection(sublayers, kept),
        "sibling": sibling_objection(decoder, kept),
        "remote-code": remote_objection(decoder, kept),
    }


def plain_objection(sublayers: SubLayers, absent: Collection[int]) -> str:
    """Why a set cannot be written for plain libraries; empty if it can."""
    objections = form_objections(sublayers, absent)
    if not all(objection for form, objection in objections.items() if form != "remote-code"):
        return ""
    if "sibling" not in objections:
        return objections["same"]
    hint = "" if objections["remote-code"] else "; --form remote-code writes it with a modelling file"
    return f"{objections['same']}, and {objections['sibling']}{hint}"


def remove_parts(sublayers: SubLayers, absent: Collection[int], form: CheckpointForm) -> nn.Module:
    """The model without some parts, in place for the form ``same``.

    Raises:
        UnsupportedModelError: before the model is touched, if the form does not fit the set.
    """
    objections = require_form(sublayers, absent, form)
    decoder, depth = sublayers.decoder, len(sublayers.blocks)
    if set(objections) == {"same"}:
        stages = sublayers.stages()
        gone = {index for index, stage in enumerate(stages) if set(absent).issuperset(stage)}
        return remove_blocks(decoder, Cut(depth, _others(depth, gone)))
    kept = KeptParts.without(depth, absent)
    if form == "remote-code":
        return with_own_code(decoder, kept)
    if form == "sibling":
        return as_sibling(decoder, kept)
    return shift(decoder, kept, mlp_children(sublayers))


def require_form(sublayers: SubLayers, absent: Collection[int], form: CheckpointForm) -> Objections:
    """Refuse a form that does not fit a set of parts; returns what speaks against each.

    Raises:
        UnsupportedModelError: with the reason.
    """
    objections = form_objections(sublayers, absent)
    if objection := objections.get(form, f"these parts have no form {form}"):
        raise UnsupportedModelError(objection)
    if set(objections) != {"same"} and any(w.is_meta for w in sublayers.decoder.model.parameters()):
        raise UnsupportedModelError(
            "its weights are offloaded; load the whole model to remove parts of blocks"
        )
    return objections


def parts_remnants(sublayers: SubLayers, absent: Collection[int], form: CheckpointForm) -> int:
    """The number of parameters that the form keeps in the place of absent parts."""
    if form != "sibling":
        return 0
    return remnants(sublayers.decoder, KeptParts.without(len(sublayers.blocks), absent))


def _same_objection(sublayers: SubLayers, kept: KeptParts) -> str:
    if kept.pairs is None:
        return "what stays does not alternate attention and MLP"
    return shift_objection(sublayers.decoder, kept) or shift_fault(sublayers)


def _structure_objection(sublayers: SubLayers) -> str:
    for index, parts in enumerate(sublayers.blocks):
        if [part.kind == "mlp" for part in parts] != [False, True]:
            name = f"{sublayers.decoder.stack}.{index}"
            return f"{name} is not an attention and an MLP; remove whole blocks"
    return ""


def _others(depth: int, gone: Collection[int]) -> tuple[int, ...]:
    return tuple(index for index in range(depth) if index not in gone)
