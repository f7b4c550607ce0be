"""Checkpoints of a spacing in mm: their logits on the source's own grid, and predict.py's files."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional

from datasets.slices.arrays import class_numbers, softmax
from datasets.slices.back_to_source import BackToSource
from datasets.slices.resampling import Grid, grid_for, resampled
from scripts.predict import main
from tests.raw_cases import KITS, hounsfield, save
from tests.tiny_checkpoints import CT, MR, predict, record, scan, thresholds, unet, voxels
from utils.prediction.answers import union
from utils.training import checkpoints

__all__ = ["thresholds"]  # a fixture
COARSE = {**CT, "spacing": 1.7, "slice_spacing": 5.0}
LOST = np.diag([-1.0, -1, 1, 1])
MOVED = np.array([[-1.0, 0, 0, 9], [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def logits_of(grid: Grid, seed: int = 0, classes: int = 3) -> torch.Tensor:
    return torch.randn(grid.stored[0], classes, *grid.stored[1:], generator=torch.Generator().manual_seed(seed))


def filled(grid: Grid, logits: torch.Tensor) -> BackToSource:
    back = BackToSource(grid)
    back.add(logits)
    return back


@pytest.mark.parametrize("size", [(13, 17), (40, 31), (20, 25), (25, 60)])
def test_logits_return_as_torch_resizes_them(size):
    grid = Grid((4, 20, 25), (4, *size))
    logits = logits_of(grid).double()
    expected = functional.interpolate(logits, (20, 25), mode="bilinear", align_corners=False)
    assert torch.allclose(filled(grid, logits).take(0, 4), expected, atol=1e-6)
    part = filled(grid, logits).take(1, 3, (slice(3, 11), slice(7, 8)))
    assert torch.allclose(part, expected[1:3, :, 3:11, 7:8], atol=1e-6)


def test_slabs_return_linearly_between_their_centers_in_parts_as_at_once():
    grid = Grid((11, 6, 6), (4, 3, 3), 3)
    logits = logits_of(grid)
    whole = filled(grid, logits).take(0, 11)
    centers = [1, 4, 7, 9.5]
    pixel = [float(np.interp(place, centers, logits[:, 1, 1, 1])) for place in range(11)]
    same = filled(Grid((11, 3, 3), (4, 3, 3), 3), logits).take(0, 11)
    assert same[:, 1, 1, 1].tolist() == pytest.approx(pixel, abs=1e-6)
    back, parts = BackToSource(grid), []
    for number in range(4):
        back.add(logits[number : number + 1])
        start = sum(len(part) for part in parts)
        parts += [back.take(place, place + 1) for place in range(start, back.ready)]
    assert torch.equal(torch.cat(parts), whole) and len(parts) == 11


@pytest.mark.parametrize("seed", range(20))
def test_outside_the_box_there_is_only_background(seed):
    """Of one answer, and of the mean probabilities of two on grids of their own."""
    rows, columns, *size = np.random.default_rng(seed).integers(3, 40, 4).tolist()
    grids = [Grid((5, rows, columns), (5, *size), 1), Grid((5, rows, columns), (3, 7, 9), 2)]
    logits = [logits_of(grid, 2 * seed + number) for number, grid in enumerate(grids)]
    for each in logits:
        each[:, 0] += 2.2  # foreground is rare
    for count in (1, 2):
        answers = [filled(*each) for each in zip(grids[:count], logits[:count], strict=True)]
        box = union(answer.box(1, 4) for answer in answers)
        labels = class_numbers(sum(answer.take(1, 4).softmax(1) for answer in answers))
        if box is not None:
            assert box[0].stop <= rows and box[1].stop <= columns
            labels[:, *box] = 0
        assert not labels.any()


@pytest.mark.parametrize("place", [(0, 0), (63, 63), (30, 63), (10, 10), (11, 12)])
def test_foreground_between_the_pixels_of_a_much_coarser_source_is_nowhere_in_it(place):
    grid = grid_for((4, 20, 20), (3, 3.2, 3.2), 1.0, None)
    logits = torch.zeros(4, 2, *grid.stored[1:])
    logits[:, 0] = 1
    logits[:, 1, *place] = 5
    labels = class_numbers(filled(grid, logits).take(0, 4))
    box = filled(grid, logits).box(0, 4)
    if box is not None:
        assert torch.equal(class_numbers(filled(grid, logits).take(0, 4, box)), labels[:, *box])
        labels[:, *box] = 0
    assert grid.stored == (4, 64, 64) and not labels.any()


def test_a_volume_is_resampled_and_its_labels_are_those_of_the_returned_logits(tmp_path, thresholds):
    image = scan(3)
    save(tmp_path / "a.nii.gz", image)
    checkpoint = with_spacing(thresholds, **COARSE)
    assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / "out", "--batch_size", 2, "--probabilities") == 0
    grid = grid_for(image.shape, (2.5, 0.8, 0.8), 1.7, 5.0)
    stored = np.stack(list(resampled(image[::-1], grid))).astype(np.float32)  # KiTS begins with the topmost slice
    value = torch.from_numpy((stored - 50) / 250).clamp(-1, 1)[:, None]
    lower, upper = ((level - 50) / 250 - 1e-4 for level in (60, 180))
    logits = torch.cat([0 * value, value - lower, 2 * value - lower - upper], 1)
    whole = filled(grid, logits).take(0, len(image))
    labels = voxels(tmp_path / "out" / "a.nii.gz")
    assert labels.shape == image.shape and {0, 1, 2} == set(np.unique(labels))
    assert (labels[::-1] == class_numbers(whole).numpy()).mean() > 0.9999
    shares = voxels(tmp_path / "out" / "a_probabilities.nii.gz")
    assert np.abs(shares[::-1].transpose(0, 3, 1, 2) - whole.softmax(1)[:, 1:].numpy()).max() < 2e-3
    assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / "boxed", "--batch_size", 5) == 0
    assert np.array_equal(voxels(tmp_path / "boxed" / "a.nii.gz"), labels)
    entry = record(tmp_path / "out")["a"]
    assert "resampled from 0.80 x 0.80 mm to 1.70 mm in-plane and from slices of 2.50 mm to slabs of 5.00 mm" in str(
        entry["notes"]
    )
    assert entry["options"]["resampled_to"] == [[1.7, 5.0]]


def with_spacing(checkpoint: Path, **preprocessing) -> Path:
    """The checkpoint as if it had been trained at this spacing."""
    content = checkpoints.load(checkpoint)
    content["preprocessing"] |= preprocessing
    place = checkpoint.with_name("coarse.ckpt")
    checkpoints.save(content, place)
    return place


def test_checkpoints_of_several_spacings_are_averaged_on_the_volume(tmp_path):
    save(tmp_path / "a.nii.gz", scan(1)[:4])
    files = [unet(tmp_path / f"{n}.ckpt", n, {**CT, "spacing": each}) for n, each in enumerate((None, 2.1))]
    shares = []
    for number, file in enumerate(files):
        assert predict(file, tmp_path / "a.nii.gz", tmp_path / f"{number}", "--probabilities", "--flip") == 0
        shares.append(voxels(tmp_path / f"{number}" / "a_probabilities.nii.gz"))
    flags = ["--checkpoint", *map(str, files), "--input", str(tmp_path / "a.nii.gz"), "--flip"]
    assert main([*flags, "--output", str(tmp_path / "all"), "--probabilities"]) == 0
    assert main([*flags, "--output", str(tmp_path / "labels")]) == 0
    mean = voxels(tmp_path / "all" / "a_probabilities.nii.gz")
    assert np.abs(mean - np.mean(shares, axis=0)).max() < 2e-3
    assert np.array_equal(voxels(tmp_path / "all" / "a.nii.gz"), voxels(tmp_path / "labels" / "a.nii.gz"))


def test_no_more_logits_are_held_than_are_needed_where_all_is_background(tmp_path, thresholds, monkeypatch):
    held, add = [], BackToSource.add

    def watched(back: BackToSource, logits: torch.Tensor) -> None:
        add(back, logits)
        held.append(len(back._held))

    monkeypatch.setattr(BackToSource, "add", watched)
    image = np.full((40, 20, 20), -100, np.int16)
    image[30:32, 5:15, 5:15] = 300
    save(tmp_path / "a.nii.gz", image)
    for name, spacing in (("native", {}), ("slices", {"spacing": 1.7}), ("slabs", COARSE)):
        checkpoint = with_spacing(thresholds, **spacing)
        assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / name, "--batch_size", 2) == 0
        assert voxels(tmp_path / name / "a.nii.gz").any() and max(held) <= 2 + 2


@pytest.mark.parametrize("spacing", [0, -1.6, "1.6", float("nan")])
def test_a_spacing_that_cannot_be_meant_is_a_damaged_checkpoint(tmp_path, thresholds, capsys, spacing):
    assert predict(with_spacing(thresholds, slice_spacing=spacing), tmp_path, tmp_path / "out") == 2
    assert "its preprocessing has slice_spacing" in capsys.readouterr().err


def test_a_volume_without_a_spacing_is_refused_in_one_line(tmp_path, thresholds, capsys):
    image = nibabel.Nifti1Image(hounsfield(0), np.diag([-1.0, 1, 1, 1]))
    image.set_sform(image.affine, 0)
    image.set_qform(image.affine, 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert predict(with_spacing(thresholds, spacing=1.7), tmp_path / "a.nii.gz", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a.nii.gz: has no spacing in mm" in error
    assert predict(thresholds, tmp_path / "a.nii.gz", tmp_path / "native") == 0
    save(tmp_path / "b.nii.gz", hounsfield(0), KITS)
    assert predict(thresholds, tmp_path / "b.nii.gz", tmp_path / "native") == 0
    assert "resampled_to" not in record(tmp_path / "native")["b"]["options"]


@pytest.mark.parametrize(("how", "affine", "status"), [(CT, LOST, 1), (CT, MOVED, 0), (MR, LOST, 0)])
def test_a_ct_with_an_identity_affine_has_lost_its_spacing_whatever_its_codes(tmp_path, capsys, how, affine, status):
    """SliceMaker refuses it as well. One with an origin, and an MR, may truly have voxels of 1 mm."""
    save(tmp_path / "a.nii.gz", scan(0)[:2], affine)
    checkpoint = unet(tmp_path / "x.ckpt", preprocessing={**how, "spacing": 1.7})
    assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / "out") == status
    assert ("a.nii.gz: has no spacing in mm" in capsys.readouterr().err) == bool(status)


@pytest.mark.parametrize("slab", [1, 3])
def test_arrays_are_brought_back_as_tensors_are(slab):
    grid = Grid((7, 12, 9), (-(-7 // slab), 5, 7), slab)
    logits = torch.randn(grid.stored[0], 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = [filled(grid, values).take(0, 7) for values in (logits, logits.numpy())]
    assert isinstance(found[1], np.ndarray)
    assert np.array_equal(found[0].numpy(), found[1])
    assert np.array_equal(class_numbers(found[0]).numpy(), class_numbers(found[1]))
    assert np.allclose(softmax(found[0]).numpy(), softmax(found[1]), atol=1e-6)
    assert filled(grid, logits).box(1, 4) == filled(grid, logits.numpy()).box(1, 4)


def test_a_prediction_is_made_without_torch():
    """Of an object that answers arrays; see `Network`."""
    code = "import sys, utils.prediction.predictor; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
