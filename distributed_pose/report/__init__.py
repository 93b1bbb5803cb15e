"""What a run found, as JSON, as tables and as pictures."""
