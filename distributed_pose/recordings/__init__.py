"""Reads and writes recorded maps, in the files of the vendor guide and its benchmark tools."""
