"""Files, errors, progress, quiet libraries, suggestions, option texts, the files of a run."""
