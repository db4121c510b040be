"""A small language model in plain PyTorch, and its adapter for shapcut."""

from shapcut_toy.model import ToyConfig, ToyModel, load, save

__all__ = ["ToyConfig", "ToyModel", "load", "save"]
