"""Benchmarks as commands: what the host and the whole pipeline cost."""
