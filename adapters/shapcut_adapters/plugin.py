"""Registration of the bundled adapters and formats."""

from shapcut.contracts import Register, hookimpl


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    """Offer the adapters for decoder-only models of transformers, and for other libraries' models."""
    register("hf-decoder", "shapcut_adapters.transformers.adapter:HFDecoderAdapter")
    register("mamba-ssm", "shapcut_adapters.mamba_ssm.adapter:MambaSSMAdapter")
    register("rwkv", "shapcut_adapters.rwkv.adapter:RwkvPackageAdapter")
    register("rwkv7-hf", "shapcut_adapters.rwkv7_hf.adapter:Rwkv7HfAdapter")


@hookimpl
def shapcut_register_formats(register: Register) -> None:
    """Offer the formats of packages that do not store models as transformers does."""
    register("mamba-ssm", "shapcut_adapters.mamba_ssm.format:MambaSSMFormat")
    register("rwkv-pth", "shapcut_adapters.rwkv.format:RwkvPth")
    register("rwkv7-hf", "shapcut_adapters.rwkv7_hf.format:Rwkv7Hf")
