"""First-party plugins: post-pruning steps, executors and reports."""
