"""The adapter's contract, the layer stack, formats, finding and loading a model safely."""
