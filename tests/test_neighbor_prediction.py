"""Prediction and export of networks that look at neighboring slices: what validation sees, each slice read once."""

import json
from typing import ClassVar

import nibabel
import numpy as np
import pytest
import torch
from raw_cases import KITS, kits_case, label_of, make
from tiny_checkpoints import CT, predict, scan, unet, voxels
from tiny_exports import export, run_of
from torch import Tensor, nn

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from utils.evaluation.kind import SLICES
from utils.exporting.samples import draw_images
from utils.prediction import channels as channels_module
from utils.prediction import predictor
from utils.runs.splits import predict_cases
from utils.training import checkpoints

AROUND = [(0, None), (1, None), (2, None), (1, 3.0), (2, 2.0)]


class Around(nn.Module):
    """Two convolutions."""

    taps: ClassVar[dict[str, str]] = {}

    def __init__(self, in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(in_channels, 8, 3, padding=1), nn.Conv2d(8, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.enter(image)))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """By mm between slices: a folder with three raw cases and their slices."""
    folders = {}
    for slice_mm in (1.0, 5.0):
        folder = tmp_path_factory.mktemp("volumes")
        affine = KITS * np.where(np.arange(4) == 0, slice_mm / 2.5, 1)  # (slices, H, W)
        for number in range(3):
            image = scan(number) + 15 * np.arange(9, dtype=np.int16)[:, None, None]  # no two slices are alike
            kits_case(folder / "raw", number, image=image, label=label_of(image.shape), affine=affine)
        flags = ["--split", "0.34", "0.33", "0.33", "--task", "organ"]
        assert make(folder / "raw", folder / "store", *flags) == 0
        folders[slice_mm] = folder
    return folders


def opened(folder, neighbors, neighbor_mm, split="val"):
    return SliceDataset(
        folder / "store", split, task="all", crop=32, augment=(), neighbors=neighbors, neighbor_mm=neighbor_mm
    )


def checkpoint_of(path, dataset, seed=0, **training):
    """A UNet of as many channels as the dataset has, on which all of them count."""
    return unet(path, seed, dataset.preprocessing, **training)


@pytest.mark.parametrize("slice_mm", [1.0, 5.0])
@pytest.mark.parametrize(("neighbors", "neighbor_mm"), AROUND)
def test_a_volume_gets_the_labels_that_validation_scores(
    volumes, tmp_path, monkeypatch, slice_mm, neighbors, neighbor_mm
):
    """9 slices in blocks of 4, batches of 3."""
    monkeypatch.setattr(predictor, "BLOCK_SLICES", 4)
    scaled = []
    once = channels_module.normalize
    monkeypatch.setattr(
        channels_module, "normalize", lambda image, *rest: scaled.append(image.sum()) or once(image, *rest)
    )
    folder = volumes[slice_mm]
    dataset = opened(folder, neighbors, neighbor_mm)
    checkpoint = checkpoint_of(tmp_path / "x.ckpt", dataset)
    (case,) = predict_cases(checkpoints.load(checkpoint), dataset)
    source = folder / "raw" / case.case
    assert predict(checkpoint, source / "imaging.nii.gz", tmp_path / "out", "--batch_size", "3") == 0
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    prediction = voxels(file)
    assert np.array_equal(prediction[::-1], case.prediction)  # the file's slices lie from superior to inferior
    assert len(np.unique(prediction)) > 1
    assert scaled == [image.sum() for image in voxels(source / "imaging.nii.gz")[::-1]]


def test_neighbors_of_slabs_are_slabs(volumes, tmp_path):
    """9 slices of 1 mm are 5 slabs of 2 mm, of which every second is a neighbor."""
    raw = volumes[1.0] / "raw"
    flags = ["--split", "0.34", "0.33", "0.33", "--task", "organ", "--slice_spacing", "2"]
    assert make(raw, tmp_path / "store", *flags) == 0
    dataset = opened(tmp_path, 1, 4.0)
    assert [record.slice for record in dataset.around(1)] == [0, 1, 3]
    checkpoint = checkpoint_of(tmp_path / "x.ckpt", dataset)
    (case,) = predict_cases(checkpoints.load(checkpoint), dataset)
    source = raw / case.case / "imaging.nii.gz"
    assert predict(checkpoint, source, tmp_path / "out", "--batch_size", "3") == 0
    assert np.array_equal(voxels(tmp_path / "out/imaging.nii.gz")[::-1], case.prediction)


def test_probabilities_and_means_of_models_that_differ_are_right(volumes, tmp_path):
    folder = volumes[1.0]
    expected = []
    for number, (neighbors, neighbor_mm) in enumerate([(1, 3.0), (0, None)]):
        dataset = opened(folder, neighbors, neighbor_mm)
        path = checkpoint_of(tmp_path / f"{number}.ckpt", dataset, seed=number)
        network = checkpoints.rebuild(checkpoints.load(path)).eval()
        with torch.no_grad():
            logits = network(dataset.batch(range(9))["image"])
        expected.append(logits.softmax(1)[:, 1:, 10:54, 7:57])
    source = folder / "raw" / dataset.cases[0] / "imaging.nii.gz"
    flags = ("--probabilities", "--batch_size", "4")
    checkpoint = [str(tmp_path / f"{number}.ckpt") for number in (0, 1)]
    assert predict(checkpoint[0], source, tmp_path / "one", *flags) == 0
    assert predict(checkpoint[0], source, tmp_path / "both", *flags, "--checkpoint", *checkpoint) == 0
    for out, mean in (("one", expected[0]), ("both", (expected[0] + expected[1]) / 2)):
        (file,) = (tmp_path / out).glob("*_probabilities.nii.gz")
        found = np.moveaxis(voxels(file)[::-1], -1, 1)
        assert np.allclose(found, mean.numpy(), atol=1e-3)


def test_a_volume_without_mm_is_refused_where_neighbors_are_in_mm(volumes, tmp_path, capsys):
    image = nibabel.Nifti1Image(scan(0), None)
    nibabel.save(image, tmp_path / "a.nii.gz")
    for neighbor_mm, status in ((None, 0), (3.0, 1)):
        checkpoint = checkpoint_of(tmp_path / f"{status}.ckpt", opened(volumes[1.0], 1, neighbor_mm))
        assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / f"out{status}") == status
    assert "a.nii.gz: has no spacing in mm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preprocessing", "fault"),
    [
        ({"neighbors": "many"}, "has neighbors many"),
        ({"neighbors": 9}, "has neighbors 9"),
        ({"neighbors": 1, "in_channels": 5}, "has in_channels 5"),
        ({"neighbors": 1, "in_channels": 3, "neighbor_mm": -3.0}, "has neighbor_mm -3.0"),
        ({"in_channels": 3}, "has in_channels 3"),
        ({"neighbors": 2, "in_channels": 5, "neighbor_mm": 3.0}, None),
        ({}, None),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(preprocessing, fault):
    found = SLICES.fault(CT | {"class_names": ["kidney"]} | preprocessing)
    assert found is None if fault is None else found.startswith(fault)


def test_an_export_takes_all_channels(volumes, tmp_path, monkeypatch):
    """ONNX and int8 predict as the checkpoint does."""
    folder = volumes[1.0]
    monkeypatch.setitem(NETWORKS, "around", Around)
    run_of("around", tmp_path / "run", folder / "store", neighbors=1, neighbor_mm=2.0)
    assert export(tmp_path / "run", tmp_path / "export", "--formats", "safetensors", "onnx", "int8") == 0
    description = json.loads((tmp_path / "export/student.json").read_text())
    assert description["in_channels"] == description["onnx"]["parity"][0]["shape"][1] == 3
    assert description["measured"]["timed_shape"][1] == 3
    card = (tmp_path / "export/README.md").read_text()
    assert "1 on each side of it (the nearest to every 2 mm)" in card
    source, labels = folder / "raw/case_00000/imaging.nii.gz", []
    for number, form in enumerate(("run", "export", "export/student.onnx", "export/student_int8.onnx")):
        engine = "onnxruntime" if form.endswith("onnx") else "torch"
        assert predict(tmp_path / form, source, tmp_path / str(number), "--engine", engine) == 0
        labels.append(voxels(tmp_path / str(number) / "imaging.nii.gz"))
    assert np.array_equal(labels[0], labels[1]) and np.array_equal(labels[0], labels[2])
    assert (labels[0] != labels[3]).mean() < 0.1


def test_calibration_has_the_neighbors_that_prediction_has(volumes):
    train = opened(volumes[1.0], 2, 2.0, "train")
    images = draw_images(train, train.preprocessing, 9)
    whole = SliceDataset(train.root, "train", task="all", crop=64, augment=(), neighbors=2, neighbor_mm=2.0)
    expected = whole.batch(range(9))["image"]
    assert len(images) == 9
    for image in images:
        assert any(torch.equal(image, each) for each in expected)
