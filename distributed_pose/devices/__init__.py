"""Which hardware there is, by kind, without any SDK."""
