"""Post-pruning steps that quantize."""
