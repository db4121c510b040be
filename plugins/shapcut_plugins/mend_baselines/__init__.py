"""Published ways to mend a cut without training, to compare with."""
