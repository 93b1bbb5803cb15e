"""Discovery and planning of hardware by kind, without any vendor's SDK."""
