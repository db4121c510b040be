"""What the first-party adapters offer."""

from shapcut.contracts import Adapter, CheckpointFormat, Register, hookimpl


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapters for decoder-only models of transformers, and for other libraries' models."""
    register("hf-decoder", _hf_decoder)
    register("mamba-ssm", _mamba_ssm)
    register("rwkv", _rwkv)
    register("rwkv7-hf", _rwkv7_hf)


@hookimpl
def shapcut_register_formats(register: Register) -> None:
    """Offer the formats of packages that do not store models as transformers does."""
    register("mamba-ssm", _mamba_ssm_format)
    register("rwkv-pth", _rwkv_pth)
    register("rwkv7-hf", _rwkv7_hf_format)


def _hf_decoder() -> Adapter:
    from shapcut_adapters.transformers.adapter import HFDecoderAdapter  # noqa: PLC0415 - seconds to import

    return HFDecoderAdapter()


def _mamba_ssm() -> Adapter:
    from shapcut_adapters.mamba_ssm.adapter import MambaSSMAdapter  # noqa: PLC0415 - as above

    return MambaSSMAdapter()


def _mamba_ssm_format() -> CheckpointFormat:
    from shapcut_adapters.mamba_ssm.format import MambaSSMFormat  # noqa: PLC0415 - as above

    return MambaSSMFormat()


def _rwkv() -> Adapter:
    from shapcut_adapters.rwkv.adapter import RwkvPackageAdapter  # noqa: PLC0415 - slow to import

    return RwkvPackageAdapter()


def _rwkv_pth() -> CheckpointFormat:
    from shapcut_adapters.rwkv.format import RwkvPth  # noqa: PLC0415 - slow to import

    return RwkvPth()


def _rwkv7_hf() -> Adapter:
    from shapcut_adapters.rwkv7_hf.adapter import Rwkv7HfAdapter  # noqa: PLC0415 - slow to import

    return Rwkv7HfAdapter()


def _rwkv7_hf_format() -> CheckpointFormat:
    from shapcut_adapters.rwkv7_hf.format import Rwkv7Hf  # noqa: PLC0415 - slow to import

    return Rwkv7Hf()
