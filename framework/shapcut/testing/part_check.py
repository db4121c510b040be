"""Check that the parts of a block are together the block."""

from shapcut.testing.case import Case
from shapcut.testing.comparison import require

_WHOLE = "players are no sub-layers"


def parts_are_their_block(case: Case) -> str:
    """A block whose sub-layers are all absent is absent, and they have no parameters but the block's."""
    if case.granularity != "sublayer":
        return _WHOLE
    comparison, model = case.comparison(), case.fresh()
    everyone = case.adapter.players(model)
    for block in everyone:
        parts = [player for player in case.players if player.name.startswith(f"{block.name}.")]
        require(parts, f"{block.name} has no sub-layers")
        count = sum(player.parameters for player in parts)
        require(
            count <= block.parameters,
            f"the sub-layers of {block.name} count {count} parameters, the block has {block.parameters}",
        )
        absent = {player.index for player in parts}
        if not absent.issubset(case.probed):
            continue
        with case.adapter.bypass(model, {other.index for other in everyone} - {block.index}):
            reference = case.logits(model)
        effect = comparison.effect(reference, f"without {block.name}")
        comparison.same(case.reference(absent), reference, effect, f"without the sub-layers of {block.name}")
    return comparison.summary()
