"""Recipes: the YAML and flags that name a run, checked whole before any work."""
