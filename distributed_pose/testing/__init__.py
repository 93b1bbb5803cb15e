"""Fakes that ship: an oracle in place of a model."""
