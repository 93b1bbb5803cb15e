"""Runtimes that execute a model on one device, with one vendor's SDK per file."""
