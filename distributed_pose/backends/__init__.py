"""Runtimes that execute a model on one device, one vendor SDK a file."""
