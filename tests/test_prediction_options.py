"""predict.py's options: probabilities, flips, several checkpoints, components, classes, devices."""

from itertools import permutations

import nibabel
import numpy as np
import pytest
import torch
from raw_cases import hounsfield, save
from tiny_checkpoints import CT, folder, labels_of, predict, record, scan, thresholds, unet, voxels

from scripts.predict import main
from utils.evaluation.volumes.components import count_voxels
from utils.prediction.postprocessing import keep_largest, remove_small
from utils.training import checkpoints

__all__ = ["folder", "thresholds"]  # fixtures


def answer(checkpoint, image, views=((),)):
    """Mean probability (K, S, H, W) of axial slices in [-1, 1], the plain way."""
    network = checkpoints.rebuild(checkpoints.load(checkpoint))
    with torch.no_grad():
        views = [network(image.flip(axes)).softmax(1).flip(axes) for axes in views]
    return (sum(views) / len(views)).transpose(0, 1).numpy()


def test_flips_and_several_checkpoints_average_probabilities(tmp_path):
    image = scan(3)[:, :32, :32]
    save(tmp_path / "a.nii.gz", image, np.array([[0, 0, -1, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]]))
    network_input = torch.from_numpy(np.clip((image - 50) / 250, -1, 1).astype(np.float32))[:, None]
    first, second = unet(tmp_path / "1.ckpt", 1), unet(tmp_path / "2.ckpt", 2)
    flips = ((), (-1,), (-2,), (-1, -2))
    wanted = {
        (first,): answer(first, network_input),
        (first, second): (answer(first, network_input) + answer(second, network_input)) / 2,
        (first, "--flip"): answer(first, network_input, flips),
    }
    for number, (flags, shares) in enumerate(wanted.items()):
        out = tmp_path / str(number)
        command = ["--checkpoint", *flags, "--input", tmp_path / "a.nii.gz", "--output", out, "--probabilities"]
        assert main([str(part) for part in command]) == 0
        written = nibabel.load(out / "a_probabilities.nii.gz")
        assert written.shape == (*image.shape, 2) and written.get_data_dtype() == np.float32
        assert np.array_equal(written.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
        assert np.allclose(np.moveaxis(np.asarray(written.dataobj), -1, 0), shares[1:], atol=6e-4)  # float16 in between
        clear = np.abs(np.diff(np.sort(shares, 0)[-2:], axis=0)[0]) > 1e-4
        assert np.array_equal(voxels(out / "a.nii.gz")[clear], shares.argmax(0)[clear])
        assert len(record(out)["a"]["checkpoints"]) == sum(not isinstance(flag, str) for flag in flags)
    assert not np.allclose(wanted[(first,)], wanted[(first, "--flip")], atol=1e-2)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_probabilities_lie_where_the_labels_do_in_any_memory_order(tmp_path, axes):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * [-1, 1, -1]
    save(tmp_path / "a.nii.gz", scan(2)[:, :20, :33], affine)
    assert predict(unet(tmp_path / "x.ckpt", 4), tmp_path / "a.nii.gz", tmp_path / "out", "--probabilities") == 0
    shares = np.moveaxis(voxels(tmp_path / "out/a_probabilities.nii.gz"), -1, 0).astype(np.float32)
    shares = np.concatenate([1 - shares.sum(0, keepdims=True), shares])
    labels = voxels(tmp_path / "out/a.nii.gz")
    assert len(np.unique(labels)) > 1
    assert (np.take_along_axis(shares, labels[None].astype(int), 0)[0] >= shares.max(0) - 2e-3).all()


def test_checkpoints_of_different_tasks_are_not_averaged(tmp_path, folder, capsys):
    other = unet(tmp_path / "o.ckpt", preprocessing=CT | {"class_names": ["liver", "tumor"]})
    command = ["--checkpoint", str(unet(tmp_path / "x.ckpt")), str(other), "--input", str(folder), "--output", "out"]
    assert main(command) == 2
    assert "average one task only" in capsys.readouterr().err


# -- components ------------------------------------------------------------------------------------------------------


def test_the_largest_component_of_a_class_is_kept_and_small_ones_removed(tmp_path, thresholds):
    image = np.full((6, 10, 12), -100, np.int16)
    image[0, 0, 0:4] = 100  # 4 voxels of kidney
    image[2:4, 2:4, 2:4] = 100  # 8, of which the next takes one
    image[3, 3, 3] = 200  # 1 voxel of tumor inside it
    image[5, 8:10, 10:12] = 200  # 4 voxels of tumor
    save(tmp_path / "a.nii.gz", image)  # 2.5 x 0.8 x 0.8 mm: 1.6 mm3 a voxel

    def left(*flags):
        out = tmp_path / "_".join(map(str, flags))
        assert predict(thresholds, tmp_path / "a.nii.gz", out, *flags) == 0
        labels = voxels(out / "a.nii.gz")
        assert record(out)["a"]["voxels"] == {"kidney": (labels == 1).sum(), "tumor": (labels == 2).sum()}
        assert record(out)["a"]["volumes_ml"]["tumor"] == pytest.approx((labels == 2).sum() * 0.0016)
        return (labels == 1).sum(), (labels == 2).sum()

    assert left("--flip") == (11, 5)
    assert left("--largest") == (7, 4)
    assert left("--largest", "kidney") == (7, 5)
    assert left("--minimum_volume", 4.5 * 0.0016) == (7, 0)
    assert left("--minimum_volume", 3.9 * 0.0016) == (11, 4)


def test_components_touch_by_corners_and_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is optional, for this comparison only")
    labels = (np.random.default_rng(0).random((20, 30, 25)) > 0.9).astype(np.uint8)
    labels[5:, 10:] *= 2
    largest, clean = labels.copy(), labels.copy()
    keep_largest(largest, [2])
    remove_small(clean, [1, 2], 5)
    components = measure.label(labels == 2, connectivity=3)
    biggest = components == np.argmax(np.bincount(components.ravel())[1:]) + 1
    assert np.array_equal(largest, np.where((labels == 2) & ~biggest, 0, labels))
    for number in (1, 2):
        sizes = np.bincount(measure.label(labels == number, connectivity=3).ravel())
        assert (clean == number).sum() == sizes[1:][sizes[1:] >= 5].sum()


def test_voxels_are_counted_across_parts(monkeypatch):
    monkeypatch.setattr("utils.evaluation.volumes.components.CHUNK_VOXELS", 7)
    assert count_voxels(np.arange(24).reshape(2, 3, 4) % 3, 4).tolist() == [8, 8, 8, 0]


def test_a_class_that_is_not_known_is_said(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out", "--largest", "liver") == 2
    assert "knows kidney, tumor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [("--batch_size", "0"), ("--jobs", "0"), ("--minimum_volume", "-1"), ("--memory", "nan"), ("--channel", "-1")],
)
def test_a_wrong_flag_is_said_in_one_line(folder, tmp_path, thresholds, capsys, flags):
    assert predict(thresholds, folder, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert flags[0] in error and error.count("\n") == 1


def test_a_missing_gpu_is_said(folder, tmp_path, thresholds, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert predict(thresholds, folder, tmp_path / "out", "--device", "cuda") == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_labels_as_the_cpu_does(folder, tmp_path, thresholds):
    assert predict(thresholds, folder, tmp_path / "out", "--device", "cuda", "--precision", "32-true") == 0
    assert np.array_equal(voxels(tmp_path / "out/a.nii.gz"), labels_of(hounsfield(0) // 4))
