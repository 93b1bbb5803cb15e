"""What a run is: its keys, and how they are read."""
