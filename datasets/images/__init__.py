"""Labeled images, wherever they are kept."""
