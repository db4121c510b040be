"""The step `heal`: fine-tuning after a cut."""
