"""Prediction and export of networks that look at neighboring slices: what validation sees, each slice read once."""

import json

import numpy as np
import pytest
import torch
from raw_cases import KITS, kits_case, label_of, make, save
from tiny_checkpoints import predict, scan, unet, voxels
from tiny_exports import Tiny, export

from datasets.slices.dataset import SliceDataset
from networks import NETWORKS
from networks.pretrained import load_pretrained
from networks.resnet import ResNetEncoder
from utils.exporting.model_card import model_card
from utils.exporting.samples import draw_images
from utils.prediction import channels as channels_module
from utils.prediction import predictor
from utils.runs.models import load_model
from utils.runs.splits import predict_cases
from utils.training import checkpoints

AROUND = [(0, None), (1, None), (2, None), (1, 3.0), (2, 2.0)]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """By mm between slices: a folder with three raw cases and their slices."""
    folders = {}
    for slice_mm in (1.0, 5.0):
        folder = tmp_path_factory.mktemp("volumes")
        affine = KITS * np.where(np.arange(4) == 0, slice_mm / 2.5, 1)  # (slices, H, W)
        for number in range(3):
            kits_case(folder / "raw", number, image=scan(number), label=label_of(scan(number).shape), affine=affine)
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
    assert np.array_equal(prediction[::-1], case.prediction) or np.array_equal(prediction, case.prediction)
    assert len(np.unique(prediction)) > 1
    assert len(scaled) == len(prediction) == 9
    assert scaled == [voxels(source / "imaging.nii.gz")[number].sum() for number in range(9)] or len(set(scaled)) == 9


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
        found = np.moveaxis(voxels(file), -1, 1)
        assert np.allclose(found, mean.numpy(), atol=1e-3)
