"""The plugin host: admit plugins, call hooks, select adapters."""
