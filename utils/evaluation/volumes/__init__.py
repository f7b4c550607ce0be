"""Scores of label volumes, case by case."""
