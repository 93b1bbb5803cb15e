"""Reads COCO datasets, and packs them into Arrow batches."""
