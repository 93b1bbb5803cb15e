"""The network, its checkpoints, and the artifacts that are made of them for a backend."""
