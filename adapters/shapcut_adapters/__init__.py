"""First-party adapters: how to enumerate, bypass and remove the players of each kind of model."""
