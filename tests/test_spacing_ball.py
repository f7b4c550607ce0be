"""A ball of known mm, sliced at a spacing and brought back by the network's logits, on grids of every kind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from tests.raw_cases import kits_case, make
from tests.test_predict import CODES
from tests.tiny_checkpoints import predict as run_predict
from tests.tiny_checkpoints import save, voxels
from utils.runs.splits import predict_cases
from utils.training import checkpoints

SPACING, SLABS = 1.6, 3.0
INSIDE, OUTSIDE, HALF = 300, -200, 50  # HU


class Halves(nn.Module):
    """Class 1 where an image is above the middle of its window."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-self.scale * image, self.scale * image], 1)


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """HU of a ball in a volume of random spacing, shape and orientation, up to 25 degrees oblique: partial volumes at
    its edge. Returns the array, its affine, the center in mm and the radius in mm."""
    random = np.random.default_rng(seed)
    order, signs = CODES[random.integers(len(CODES))]
    radius = random.uniform(24, 32)
    # in the order x, y, z of the body
    spacing = np.array([*random.uniform(0.6, 1.5, 2), random.uniform(0.7, 3.0)])
    lengths = np.ceil((2 * radius + random.uniform(14, 30, 3)) / spacing).astype(int)
    turn = np.linalg.qr(np.eye(3) + np.tan(np.deg2rad(random.uniform(0, 25))) * random.uniform(-0.5, 0.5, (3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    affine = np.eye(4)
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, axis] = sign * turn[:, world] * spacing[world]
    shape = lengths[list(order)]
    affine[:3, 3] = random.uniform(-200, 200, 3)
    middle = (shape - 1) / 2 + random.uniform(-2, 2, 3)
    center = affine[:3, :3] @ middle + affine[:3, 3]
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    edge = radius - np.linalg.norm(places - center, axis=-1)  # mm inside
    share = np.clip(edge / np.cbrt(spacing.prod()) + 0.5, 0, 1)
    return np.rint(OUTSIDE + (INSIDE - OUTSIDE) * share).astype(np.int16), affine, center, radius


def measured(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, float]:
    """The center of a mask in mm, and its volume in mm^3."""
    middle = np.argwhere(mask).mean(0)
    return affine[:3, :3] @ middle + affine[:3, 3], mask.sum() * abs(np.linalg.det(affine[:3, :3]))


def errors(seeds: Sequence[int], folder: Path) -> list[tuple[float, float]]:
    """Of each ball, predicted from file to file: the most voxels its center is off, and the relative error in volume.

    From the store, as test scores it, come the same labels.
    """
    balls = [phantom(seed) for seed in seeds]
    for seed, (image, affine, _, _) in zip(seeds, balls, strict=True):
        kits_case(folder / "raw", seed, image=image, label=(image > HALF).astype(np.uint8), affine=affine)
    flags = ("--split", "0", "0", "1", "--task", "organ", "--spacing", str(SPACING), "--slice_spacing", str(SLABS))
    assert make(folder / "raw", folder / "store", *flags) == 0
    dataset = SliceDataset(folder / "store", "test", crop=32)
    file = save(folder / "x.ckpt", {"name": "halves"}, {"scale": torch.ones(1)}, dataset.preprocessing)
    assert run_predict(file, folder / "raw", folder / "out") == 0
    scored = {each.case: each for each in predict_cases(checkpoints.load(file), dataset)}
    found = []
    for seed, (image, affine, center, radius) in zip(seeds, balls, strict=True):
        labels = voxels(folder / "out" / f"case_{seed:05d}.nii.gz")
        case = scored[f"case_{seed:05d}"]
        assert labels.shape == image.shape and labels.sum() == case.prediction.sum()
        there, volume = measured(labels == 1, affine)
        off = np.linalg.solve(affine[:3, :3], there - center)
        found.append((float(np.abs(off).max()), volume / (4 / 3 * np.pi * radius**3) - 1))
    return found


def test_a_ball_comes_back_within_half_a_voxel_and_one_percent_of_its_volume(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "halves", Halves)
    for voxels_off, volume in errors(range(3), tmp_path):
        assert voxels_off < 0.5 and abs(volume) < 0.01
