"""The pipeline of a run: score, prune, several cuts, resume, dry run."""
