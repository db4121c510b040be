"""Executors that spread evaluation over workers."""
