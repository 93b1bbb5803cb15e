"""The network, its checkpoints, and what is made of them for a backend."""
