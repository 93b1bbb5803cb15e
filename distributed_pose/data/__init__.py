"""COCO datasets and the Arrow batches that carry them."""
