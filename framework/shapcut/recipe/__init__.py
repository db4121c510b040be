"""What a run is asked for, as data; named methods."""
