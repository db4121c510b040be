"""The step `compensate`: least squares on the kept blocks."""
