"""What the first-party adapters offer."""

from shapcut.adapter import Adapter
from shapcut.formats import CheckpointFormat
from shapcut.hookspecs import Register, hookimpl


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapters for decoder-only models of transformers and for RWKV."""
    register("hf-decoder", _hf_decoder)
    register("rwkv", _rwkv)
    register("rwkv7-hf", _rwkv7_hf)


@hookimpl
def shapcut_register_formats(register: Register) -> None:
    """Offer the formats of packages that do not store models as transformers does."""
    register("rwkv-pth", _rwkv_pth)
    register("rwkv7-hf", _rwkv7_hf_format)


def _hf_decoder() -> Adapter:
    from shapcut_adapters.hf_decoder import HFDecoderAdapter  # noqa: PLC0415 - seconds to import

    return HFDecoderAdapter()


def _rwkv() -> Adapter:
    from shapcut_adapters.rwkv_package import RwkvPackageAdapter  # noqa: PLC0415 - slow to import

    return RwkvPackageAdapter()


def _rwkv_pth() -> CheckpointFormat:
    from shapcut_adapters.rwkv_pth import RwkvPth  # noqa: PLC0415 - slow to import

    return RwkvPth()


def _rwkv7_hf() -> Adapter:
    from shapcut_adapters.rwkv7_hf import Rwkv7HfAdapter  # noqa: PLC0415 - slow to import

    return Rwkv7HfAdapter()


def _rwkv7_hf_format() -> CheckpointFormat:
    from shapcut_adapters.rwkv7_hf_format import Rwkv7Hf  # noqa: PLC0415 - slow to import

    return Rwkv7Hf()
