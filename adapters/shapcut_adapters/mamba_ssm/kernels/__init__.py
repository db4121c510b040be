"""Kernels of ``mamba_ssm`` in plain PyTorch, for machines without a GPU."""
