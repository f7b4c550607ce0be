"""Many methods on many students from the same seeds: planned, run, calibrated and compared."""
