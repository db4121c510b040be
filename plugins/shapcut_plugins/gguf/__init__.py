"""The step that writes a GGUF file beside the checkpoint."""
