"""Who does the work of a run, without Ray."""
