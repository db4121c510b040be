"""What the first-party adapters offer."""

from shapcut.adapter import Adapter
from shapcut.hookspecs import Register, hookimpl


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapter for decoder-only models of transformers."""
    register("hf-decoder", _hf_decoder)


def _hf_decoder() -> Adapter:
    from shapcut_adapters.hf_decoder import HFDecoderAdapter  # noqa: PLC0415 - seconds to import

    return HFDecoderAdapter()
