"""Reports a run as JSON, as tables and as pictures."""
