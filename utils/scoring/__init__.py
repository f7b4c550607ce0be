"""Scores of label volumes, case by case, and whether two sets of them differ."""
