"""The command line."""

from shapcut.cli.main import main

__all__ = ["main"]
