"""The step `compensate`: least squares for the blocks that stay."""
