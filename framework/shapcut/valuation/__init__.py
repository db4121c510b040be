"""Fast evaluation of coalitions of a model's layers."""
