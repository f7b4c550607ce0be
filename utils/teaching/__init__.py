"""Soft maps of a slice store, filled by any teacher: our checkpoints, files of other programs, ONNX, nnU-Net."""
