"""Batches of stored samples: gathered, moved and changed by a few operations, on a CPU as on a GPU."""
