"""What the first-party adapters offer."""

from shapcut.adapter import Adapter
from shapcut.formats import CheckpointFormat
from shapcut.hookspecs import Register, hookimpl


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapters, by library."""
    register("hf-decoder", _hf_decoder)
    register("mamba-ssm", _mamba_ssm)


@hookimpl
def shapcut_register_formats(register: Register) -> None:
    """Offer the checkpoint formats of other libraries."""
    register("mamba-ssm", _mamba_ssm_format)


def _hf_decoder() -> Adapter:
    from shapcut_adapters.hf_decoder import HFDecoderAdapter  # noqa: PLC0415 - seconds to import

    return HFDecoderAdapter()


def _mamba_ssm() -> Adapter:
    from shapcut_adapters.mamba_ssm.adapter import MambaSSMAdapter  # noqa: PLC0415 - as above

    return MambaSSMAdapter()


def _mamba_ssm_format() -> CheckpointFormat:
    from shapcut_adapters.mamba_ssm.format import MambaSSMFormat  # noqa: PLC0415 - as above

    return MambaSSMFormat()
