"""Workers, reducers and their scheduling, without Ray."""
