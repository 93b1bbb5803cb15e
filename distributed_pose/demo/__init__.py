"""The embedded default: its data and its model."""
