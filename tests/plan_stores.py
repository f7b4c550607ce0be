"""What the tests of plans share: a measurement that takes no time, and stores that know their millimeters."""

import json
from pathlib import Path

import numpy as np

from utils.planning.dry_step import Measured, Trial

GIGABYTE = 10**9


def linear(trial: Trial) -> Measured:
    """A measurement of 1 GB and 0.1 GB an image, of 10 GB."""
    return Measured(GIGABYTE, GIGABYTE + trial.batch * GIGABYTE // 10, 10 * GIGABYTE, 0.1 * trial.batch, 0.1, "cpu")


def add_geometry(store: Path, spacing: dict[str, float] | float, between: float = 3.0) -> None:
    """Write geometry.json and case.json beside the slices of every case."""
    for folder in (path for path in store.iterdir() if path.is_dir()):
        size = spacing if isinstance(spacing, float) else spacing[folder.name]
        slices = sorted(folder.glob("*.npz"))
        with np.load(slices[0]) as content:
            rows, columns = content["image"].shape
        affine = np.diag([size, size, between, 1.0])
        geometry = {"affine": affine.tolist(), "spacing": [size, size, between], "shape": [columns, rows, len(slices)]}
        geometry |= {"axes": [2, 1, 0], "axis": 2, "slice_spacing": [between, size, size]}
        (folder / "geometry.json").write_text(json.dumps(geometry))
        source = {"file": f"/raw/{folder.name}/image.nii.gz"}
        record = {"case": folder.name, "settings": {}, "slices": [], "voxels": {"0": 9, "1": 100, "2": 10}}
        (folder / "case.json").write_text(json.dumps(record | {"sources": {"image": source, "label": source}}))
