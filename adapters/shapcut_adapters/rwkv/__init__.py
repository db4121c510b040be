"""RWKV-4 to RWKV-6 through the `rwkv` package."""
