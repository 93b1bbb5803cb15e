"""The user's cache: what takes long to make, kept within a limit."""
