"""What a cut changes in the metadata of a GGUF file, and which cuts llama.cpp would misread.

llama.cpp derives some behaviour of a model from its number of blocks or from a block's number. These facts
are from its sources of 2026 (`src/models/*.cpp`, `src/llama-hparams.cpp`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shapcut.export.gguf_texts import counted_again, new_texts
from shapcut.models.gguf_header import ARRAY, INTEGERS, STRING, GGUFHeader, MetadataEntry


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp derives from blocks of one architecture, beyond what the metadata says.

    Attributes:
        window_period: every so many blocks, the last one attends to everything and the others to a window,
            if the file states no pattern; 0: no block's window depends on its number.
        special_depths: numbers of blocks at which the model behaves differently.
        behaviour: what differs.
    """

    window_period: int = 0
    special_depths: frozenset[int] = frozenset()
    behaviour: str = ""


PLAIN = Architecture()

ARCHITECTURES = dict.fromkeys(
    (
        "bloom", "falcon", "gemma4", "gpt2", "lfm2", "llama", "mamba", "minimax-m2", "nemotron", "phi3",
        "qwen2", "qwen2moe", "qwen3", "qwen3moe", "stablelm", "starcoder2",
    ),
    PLAIN,
) | {
    "baichuan": Architecture(special_depths=frozenset({32, 40}), behaviour="the position encoding"),
    "deepseek2": Architecture(special_depths=frozenset({26, 27, 47, 48}), behaviour="the \"lite\" variant"),
    "exaone4": Architecture(special_depths=frozenset({64}), behaviour="the sliding windows"),
    "gemma2": Architecture(2, frozenset({46}), "the attention scale"),
    "gemma3": Architecture(6, frozenset({62}), "the attention scale"),
    "gpt-oss": Architecture(2),
}  # fmt: skip
"""By their names in GGUF. Those that are absent are refused."""

_WINDOWS = "attention.sliding_window_pattern"

_LEADING = ("leading_dense_block_count",)
"""Numbers of leading blocks."""

_PERIODS = (
    "full_attention_interval",
    "interleave_moe_layer_step",
    "moe_every_n_layers",
    "rescale_every_n_layers",
)
"""Every so many blocks, one is of another kind."""

_UNSUPPORTED = (
    "attention.shared_kv_layers",
    "decoder_block_count",
    "embedding_length_per_layer_input",
    "n_deepstack_layers",
    "nextn_predict_layers",
)
"""Blocks that depend on each other, or weights of blocks that lie in a tensor of the whole model."""

_NOT_OF_BLOCKS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "block_count",
    "classifier.output_labels",
    "rope.dimension_sections",
)
"""Keys that may look as if they were about single blocks."""

_ABOUT_BLOCKS = {"block", "blocks", "every", "interval", "layer", "layers"}
"""Words in the names of keys that may be about single blocks."""


def cut_objection(header: GGUFHeader, kept: Sequence[int]) -> str:
    """Why a cut of a GGUF file is not known to behave as the bypassed original; empty if it is.

    Args:
        header: of the whole model.
        kept: the blocks that stay, ascending.
    """
    if objection := gguf_objection(header):
        return objection
    try:
        return _depth_objection(header, len(kept)) or _period_objection(header, kept)
    except ValueError as error:
        return str(error)


def gguf_objection(header: GGUFHeader) -> str:
    """Why no block of a GGUF file can be cut; empty if some can."""
    try:
        return _architecture_objection(header) or _metadata_objection(header)
    except ValueError as error:
        return str(error)


def _architecture_objection(header: GGUFHeader) -> str:
    architecture, blocks = header.architecture, header.block_count
    if architecture not in ARCHITECTURES:
        return f"its architecture {architecture!a} is not among the known ones: {', '.join(ARCHITECTURES)}"
    if not blocks or blocks < 1:
        return f"it has no {architecture}.block_count"
    rule = ARCHITECTURES[architecture]
    if blocks in rule.special_depths:
        return f"llama.cpp derives {rule.behaviour} of {architecture} from its having {blocks} blocks"
    if absent := sorted(set(range(blocks)) - {tensor.block for tensor in header.tensors}):
        return f"it has no tensor of block {absent[0]}, but its header counts {blocks} blocks"
    return ""


def _metadata_objection(header: GGUFHeader) -> str:
    for key in _UNSUPPORTED:
        entry = header.own(key)
        if entry is not None and entry.value != 0:
            return f"{entry.name} is {_shown(entry)}: such blocks depend on each other"
    for key in (*_LEADING, *_PERIODS):
        entry = header.own(key)
        if entry is not None and entry.kind not in INTEGERS:
            return f"{entry.name} is {_shown(entry)}, which is no whole number"
    return next(filter(None, (_entry_objection(header, entry) for entry in header.entries)), "")


def _shown(entry: MetadataEntry) -> str:
    return "an array" if entry.kind == ARRAY else f"{entry.value!a}"


def _entry_objection(header: GGUFHeader, entry: MetadataEntry) -> str:
    """Why an entry's meaning for single blocks is unknown; empty if it is known."""
    prefix = f"{header.architecture}."
    key = entry.name.removeprefix(prefix)
    if not entry.name.startswith(prefix) or key in (*_NOT_OF_BLOCKS, *_LEADING, *_PERIODS, *_UNSUPPORTED):
        return ""
    if entry.kind == ARRAY and (entry.element == STRING or entry.count != header.block_count):
        return f"{entry.name} is an array of {entry.count} that is not known to follow its blocks"
    if entry.kind != ARRAY and _ABOUT_BLOCKS & set(key.replace(".", "_").split("_")):
        return f"the meaning of {entry.name} for single blocks is unknown"
    return ""


def _depth_objection(header: GGUFHeader, after: int) -> str:
    rule = ARCHITECTURES[header.architecture]
    if after not in rule.special_depths:
        return ""
    return f"llama.cpp would derive {rule.behaviour} of {header.architecture} from its having {after} blocks"


def _period_objection(header: GGUFHeader, kept: Sequence[int]) -> str:
    keys = _PERIODS if ARCHITECTURES[header.architecture].window_period else (*_PERIODS, _WINDOWS)
    for key in keys:
        period = header.integer(key) or 1
        if any(old % period != new % period for new, old in enumerate(kept)):
            return f"{header.architecture}.{key} is {period}, and the cut breaks that period"
    return ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a cut changes in the metadata.

    Attributes:
        numbers: new values of whole numbers, by key.
        texts: new values of strings, by key.
        arrays: which elements of an array stay, by key.
        windows: whether each block attends to a window, where the cut breaks a period; else None.
        windows_key: the key of that array.
    """

    numbers: dict[str, int]
    texts: dict[str, str]
    arrays: dict[str, tuple[int, ...]]
    windows: tuple[bool, ...] | None
    windows_key: str


def followed_metadata(header: GGUFHeader, kept: Sequence[int]) -> Changes:
    """How the metadata follows a cut without a `cut_objection`."""
    prefix = f"{header.architecture}."
    numbers = {f"{prefix}block_count": len(kept)}
    for key in _LEADING:
        if (leading := header.integer(key)) is not None:
            numbers[prefix + key] = sum(block < leading for block in kept)
    arrays = {
        entry.name: tuple(kept)
        for entry in header.entries
        if entry.name.startswith(prefix)
        and entry.kind == ARRAY
        and entry.name.removeprefix(prefix) not in _NOT_OF_BLOCKS
    }
    if len(kept) < (header.block_count or 0):
        numbers |= counted_again(header, kept)
    return Changes(numbers, new_texts(header, kept), arrays, _windows(header, kept), prefix + _WINDOWS)


def _windows(header: GGUFHeader, kept: Sequence[int]) -> tuple[bool, ...] | None:
    """Which kept blocks attend to a window, if the cut breaks a period that llama.cpp would go by."""
    stated, period = header.own(_WINDOWS), ARCHITECTURES[header.architecture].window_period
    if not period or (stated is not None and stated.kind == ARRAY):
        return None
    found = header.integer(_WINDOWS)
    period = period if found is None else found
    before = [_slides(block, period) for block in kept]
    return None if before == [_slides(block, period) for block in range(len(kept))] else tuple(before)


def _slides(block: int, period: int) -> bool:
    return period == 0 or block % period < period - 1
