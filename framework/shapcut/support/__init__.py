"""Helpers without knowledge of games or models: files, errors, progress, options, run directories."""
