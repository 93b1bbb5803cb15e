"""Logs runs to the trackers that a configuration names, such as MLflow."""
