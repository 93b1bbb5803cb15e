"""Computes COCO figures and throughput. Pure functions."""
