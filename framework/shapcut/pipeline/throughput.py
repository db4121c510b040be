"""The assumed throughput of a device."""

THROUGHPUT = 100.0
"""Default throughput in TFLOP/s: about a third of an A100's bf16 peak of 312."""
