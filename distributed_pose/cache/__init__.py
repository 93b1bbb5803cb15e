"""The user's cache: artifacts that take long to make, kept within a size limit."""
