"""The configuration of a run: its keys, and how they are read."""
