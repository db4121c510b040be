"""Which sets of parts can be written."""

from collections.abc import Collection

from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.transformers.sublayers.players import SubLayers


def removed_blocks(sublayers: SubLayers, absent: Collection[int]) -> tuple[frozenset[int], str]:
    """The whole blocks that a set of parts amounts to, and an objection if it is something else.

    Raises:
        IndexError: if an index names no player.
    """
    stages = sublayers.stages()
    gone = checked_indices(absent, stages[-1].stop)
    blocks = frozenset(index for index, stage in enumerate(stages) if gone.issuperset(stage))
    for index, (stage, parts) in enumerate(zip(stages, sublayers.blocks, strict=True)):
        cut = [part for player, part in zip(stage, parts, strict=True) if player in gone]
        if cut and index not in blocks:
            name = f"{sublayers.decoder.stack}.{index}.{cut[0].path}"
            return blocks, f"{name} cannot be written without the rest of its block; remove the whole block"
    return blocks, ""
