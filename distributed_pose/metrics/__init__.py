"""COCO figures and throughput. Pure functions."""
