"""Write, verify and describe the checkpoint."""
