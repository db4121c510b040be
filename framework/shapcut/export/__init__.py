"""The checkpoint: written, verified, described."""
