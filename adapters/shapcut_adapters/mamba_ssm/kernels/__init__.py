"""Kernels of `mamba_ssm` that run without a GPU."""
