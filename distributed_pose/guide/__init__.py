"""Runs the steps of the vendor guide, with its files as input and output."""
