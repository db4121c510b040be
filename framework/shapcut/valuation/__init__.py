"""What a coalition of a model's layers is worth, measured fast."""
