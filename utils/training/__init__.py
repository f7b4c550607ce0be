"""Minimizing an objective: the loop, its checkpoints, its loaders and what a person watches."""
