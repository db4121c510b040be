"""Calibration and held-out text as windows of tokens."""
