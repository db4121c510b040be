"""Plugins admitted, hooks called, adapters chosen."""
