"""The adapter contract, layer stacks, checkpoint formats, and safe loading of models."""
