"""Prediction with what training left: checkpoints in, label volumes or tables of classes out."""
