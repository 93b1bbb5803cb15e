"""Frozen records that cross a boundary between rooms or processes."""
