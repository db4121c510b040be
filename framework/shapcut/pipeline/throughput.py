"""How fast a device is taken to be."""

THROUGHPUT = 100.0
"""TFLOP/s that a device is taken to sustain if nobody says: about a third of one A100's bf16 peak of 312."""
