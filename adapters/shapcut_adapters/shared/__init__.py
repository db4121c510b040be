"""What adapters of different libraries share."""
