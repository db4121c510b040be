"""What the first-party plugins offer."""
