"""Benchmarks behind commands: costs of the host, the devices and the whole pipeline."""
