"""The slice store: written by scripts/SliceMaker.py, read by training."""
