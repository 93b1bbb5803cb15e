"""Heatmaps and PAFs to poses. Pure functions."""
