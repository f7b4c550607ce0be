"""predict.py: labels on the source's grid, the very ones validation scores, in every orientation."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from raw_cases import KITS, SHARED, hounsfield, kits_case, label_of, make, msd, save
from test_geometry import stored
from tiny_checkpoints import labels_of, predict, scan, thresholds, unet, voxels

from datasets.slices.dataset import SliceDataset
from utils.evaluation.inference import evaluate
from utils.evaluation.metrics import VolumeDice
from utils.training import checkpoints

__all__ = ["thresholds"]  # a fixture
CODES = list(product(permutations(range(3)), product((1, -1), repeat=3)))  # all 48


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_labels_are_those_that_validation_scores(tmp_path, modality, precision):
    if modality == "CT":
        for number in range(3):
            kits_case(tmp_path / "raw", number, image=scan(number), label=label_of(scan(number).shape))
        inputs, dataset = tmp_path / "raw", "kits"
    else:
        intensities = {f"case_{n:05d}": (scan(n).T * 0.37 + 900 * n).astype(np.float32) for n in range(3)}
        inputs, dataset = msd(tmp_path / "raw", intensities) / "imagesTr", "msd"
    flags = ["--split", "0.34", "0.33", "0.33", "--task", "organ"]
    assert make(tmp_path / "raw", tmp_path / "store", *flags, dataset=dataset) == 0
    val = SliceDataset(tmp_path / "store", "val", task="all", crop=32)
    checkpoint = unet(tmp_path / "x.ckpt", preprocessing=val.preprocessing, precision=precision)
    network = checkpoints.rebuild(checkpoints.load(checkpoint)).to(memory_format=torch.channels_last)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    metric = VolumeDice(val.class_names)
    _, rows = evaluate(fabric, network, val, [metric], batch_size=2, channels_last=True)

    assert predict(checkpoint, inputs, tmp_path / "out", "--batch_size", "2") == 0
    assert len(rows) == 2
    for row in rows:
        prediction = voxels(tmp_path / "out" / f"{row['case']}.nii.gz")
        number = val.class_names.index(row["class"]) + 1
        ours, target = prediction == number, label_of(prediction.shape) == number
        assert ours.any() and not ours.all()
        counts = [int(mask.sum()) for mask in (ours & target, ours, target)]
        assert counts == [row["intersection_voxels"], row["prediction_voxels"], row["target_voxels"]]
        assert row["dice"] == 2 * counts[0] / (counts[1] + counts[2])


def test_the_same_body_gets_the_same_labels_in_every_orientation(tmp_path):
    canonical = scan(0).transpose(2, 1, 0)  # (x, y, z) towards right, front, top
    canonical = canonical[:16, :20, :6]
    for number, (order, signs) in enumerate(CODES):
        flips = tuple(slice(None, None, sign) for sign in signs)
        save(tmp_path / "in" / f"{number:02d}.nii.gz", canonical[flips].transpose(order), affine_of(order, signs))
    assert predict(unet(tmp_path / "x.ckpt"), tmp_path / "in", tmp_path / "out") == 0
    first = voxels(tmp_path / "out" / "00.nii.gz")
    assert {0, 1, 2} == set(np.unique(first))
    for number, (order, signs) in enumerate(CODES):
        flips = tuple(slice(None, None, sign) for sign in signs)
        turned = voxels(tmp_path / "out" / f"{number:02d}.nii.gz")
        assert np.array_equal(turned.transpose(np.argsort(order))[flips], first)


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], degrees: float = 0.0) -> np.ndarray:
    """An anisotropic affine of this orientation, turned about an oblique axis."""
    affine = stored(order, signs)[1]
    affine[:3, :3] *= np.array([0.7, 1.1, 2.5])[list(order)]
    axis = np.array([1.0, 2.0, 3.0]) / 14**0.5
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine[:3] = turn @ affine[:3]
    return affine


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_a_marker_comes_back_where_it_was_on_every_grid(tmp_path, thresholds, degrees):
    random = np.random.default_rng(1)
    images = []
    for number, (order, signs) in enumerate(CODES):
        images.append(random.integers(-300, 50, (4, 5, 6)).astype(np.int16))
        images[-1][tuple(random.integers(0, (4, 5, 6)))] = 100
        save(tmp_path / "in" / f"{number:02d}.nii.gz", images[-1], affine_of(order, signs, degrees))
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    for number, image in enumerate(images):
        source, result = (nibabel.load(tmp_path / part / f"{number:02d}.nii.gz") for part in ("in", "out"))
        assert np.argwhere(np.asarray(result.dataobj)).tolist() == np.argwhere(image == 100).tolist()
        assert_same_grid(source, result)


def assert_same_grid(source, result):
    assert result.shape == source.shape and result.get_data_dtype() == np.uint8
    assert np.array_equal(result.affine, source.affine)
    for form in ("get_sform", "get_qform"):
        (ours, code), (theirs, their_code) = getattr(result, form)(coded=True), getattr(source, form)(coded=True)
        assert code == their_code
        assert (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))
    assert result.header.get_xyzt_units() == source.header.get_xyzt_units()
    assert np.array_equal(result.header.get_zooms()[:3], source.header.get_zooms()[:3])


@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (4, 2), (1, 3)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_forms_and_their_codes_survive_bit_for_bit(tmp_path, thresholds, codes, kind):
    image = kind(hounsfield(0), KITS)
    image.set_sform(affine_of((2, 1, 0), (1, -1, -1), 11), codes[0])  # not the qform: both must survive
    image.set_qform(affine_of((2, 1, 0), (1, -1, -1), 7), codes[1])
    image.header.set_xyzt_units("meter", "sec")
    image.header["descrip"] = b"a patient's name"
    nibabel.save(image, tmp_path / "a.nii")
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    source, result = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "out/a.nii.gz")
    assert_same_grid(source, result)
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "pixdim"):
        assert result.header[field].tobytes() == source.header[field].tobytes(), field
    assert type(result) is kind
    assert result.header["descrip"].item() == b""
    assert np.array_equal(np.asarray(result.dataobj), labels_of(hounsfield(0)))


@pytest.mark.parametrize("change", ["big endian", "scaled", "uncompressed", "a fourth axis of one", "float64"])
def test_any_file_that_holds_a_volume_is_predicted(tmp_path, thresholds, change):
    values = hounsfield(0)[..., None] if change == "a fourth axis of one" else hounsfield(0)
    header = nibabel.Nifti1Header(endianness=">" if change == "big endian" else "<")
    image = nibabel.Nifti1Image(values, KITS, header)
    image.set_data_dtype(np.float64 if change == "float64" else np.int16)
    if change == "scaled":
        image.header.set_slope_inter(0.5, -20)
    file = tmp_path / ("a.nii" if change == "uncompressed" else "a.nii.gz")
    nibabel.save(image, file)
    assert predict(thresholds, file, tmp_path / "out") == 0
    source, result = nibabel.load(file), nibabel.load(tmp_path / "out/a.nii.gz")
    assert_same_grid(source, result)
    assert np.array_equal(np.asarray(result.dataobj), labels_of(np.rint(source.get_fdata())))


def test_one_channel_of_several_and_the_axis_of_a_short_axis_stack_can_be_chosen(tmp_path):
    channels = np.stack([scan(0), scan(1)], axis=-1)
    save(tmp_path / "a.nii.gz", channels)
    save(tmp_path / "b.nii.gz", scan(1))
    checkpoint = unet(tmp_path / "x.ckpt")
    assert predict(checkpoint, tmp_path / "a.nii.gz", tmp_path / "out", "--channel", 1, "--slice_axis", 2) == 0
    assert predict(checkpoint, tmp_path / "b.nii.gz", tmp_path / "out", "--slice_axis", 2) == 0
    assert predict(checkpoint, tmp_path / "b.nii.gz", tmp_path / "axial") == 0
    assert np.array_equal(voxels(tmp_path / "out/a.nii.gz"), voxels(tmp_path / "out/b.nii.gz"))
    assert not np.array_equal(voxels(tmp_path / "axial/b.nii.gz"), voxels(tmp_path / "out/b.nii.gz"))


def test_a_real_ct_is_predicted_on_its_own_grid(tmp_path, thresholds):
    if not SHARED.is_dir():
        pytest.skip("no real CT at ../shared/data/totalseg_example")
    file = SHARED / "example_ct.nii.gz"
    assert predict(thresholds, file, tmp_path / "out") == 0
    assert_same_grid(nibabel.load(file), nibabel.load(tmp_path / "out/example_ct.nii.gz"))
    assert np.array_equal(voxels(tmp_path / "out/example_ct.nii.gz"), labels_of(voxels(file)))
