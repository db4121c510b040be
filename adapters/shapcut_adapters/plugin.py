"""What this package offers to shapcut."""

from shapcut.hookspecs import Register, hookimpl
from shapcut_adapters.hf_decoder import HFDecoderAdapter


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapter for decoder-only transformers models."""
    register("hf-decoder", HFDecoderAdapter)
