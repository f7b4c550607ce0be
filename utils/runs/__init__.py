"""Finished runs: what a run folder holds, its networks, its scores, and groups of runs."""
