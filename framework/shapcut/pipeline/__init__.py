"""Session, score, cut, prune, series, resume, dry run."""
