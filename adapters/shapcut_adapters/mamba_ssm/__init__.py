"""Models of the ``mamba-ssm`` package: Mamba, Mamba-2 and hybrids with attention, on a GPU or on a CPU."""
