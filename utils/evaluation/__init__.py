"""Scores: networks run over whole cases, metrics, statistics, pictures, and scores of label volumes."""
