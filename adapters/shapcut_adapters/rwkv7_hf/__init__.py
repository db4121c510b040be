"""RWKV-7 through `rwkv7-hf`."""
