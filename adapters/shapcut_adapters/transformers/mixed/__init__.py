"""The parts of blocks and the experts in them as players of one game."""
