"""Decodes heatmaps and PAFs into poses. Pure functions."""
