"""The steps of the vendor guide, file for file."""
