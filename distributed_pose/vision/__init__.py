"""Images to network inputs: the preprocessing profiles. Pure functions."""
