"""Recipes and named methods."""
