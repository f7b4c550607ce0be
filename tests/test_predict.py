"""predict.py: labels on the source's grid, the very ones validation scores; whole or absent, never over anything."""

import csv
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from image_stores import write_image
from lightning_fabric import Fabric
from raw_cases import KITS, hounsfield, kits_case, label_of, make, msd, save
from test_geometry import stored
from tiny_checkpoints import CT, labels_of, predict, record, thresholds, unet, voxels
from tiny_checkpoints import save as save_checkpoint

from datasets.decoding import decode
from datasets.geometry import orient
from datasets.image_transforms import Preparation
from datasets.nifti import write_volume
from datasets.slices import SliceDataset
from networks import NETWORKS
from scripts.predict import main
from utils import checkpoints
from utils.config import ROOT
from utils.inference import evaluate
from utils.metrics import VolumeDice
from utils.prediction.postprocessing import count_voxels, keep_largest, remove_small
from utils.prediction.read_ahead import run_ahead

__all__ = ["thresholds"]  # a fixture
SHARED = ROOT.parent / "shared" / "data" / "totalseg_example"
CODES = list(product(permutations(range(3)), product((1, -1), repeat=3)))  # all 48


@pytest.fixture
def folder(tmp_path):
    """Three CTs: a, b and c."""
    for number, name in enumerate("abc"):
        save(tmp_path / "in" / f"{name}.nii.gz", hounsfield(number) // 4)
    return tmp_path / "in"


def scan(seed: int) -> np.ndarray:
    """HU of (slices, H, W) or of any order: smooth enough for a small network to see something."""
    coarse = np.random.default_rng(seed).normal(50, 150, (5, 6, 7))
    return np.kron(coarse, np.ones((2, 8, 8))).astype(np.int16)[:9, :44, :50]


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


# -- probabilities, flips, ensembles ---------------------------------------------------------------------------------


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
    monkeypatch.setattr("utils.prediction.postprocessing.CHUNK_VOXELS", 7)
    assert count_voxels(np.arange(24).reshape(2, 3, 4) % 3, 4).tolist() == [8, 8, 8, 0]


def test_a_class_that_is_not_known_is_said(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out", "--largest", "liver") == 2
    assert "knows kidney, tumor" in capsys.readouterr().err


# -- which cases, which files ----------------------------------------------------------------------------------------


def test_a_list_names_the_cases(folder, tmp_path, thresholds):
    (tmp_path / "cases.csv").write_text("case,image\nfirst,in/b.nii.gz\nsecond,in/a.nii.gz\n")
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out") == 0
    assert np.array_equal(voxels(tmp_path / "out/first.nii.gz"), labels_of(hounsfield(1) // 4))
    assert sorted(record(tmp_path / "out")) == ["first", "second"]


def test_a_folder_of_kits_cases_is_predicted_by_their_names(tmp_path, thresholds):
    for number in (3, 8):
        kits_case(tmp_path / "raw", number)
    assert predict(thresholds, tmp_path / "raw", tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["case_00003", "case_00008"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image\nin/a.nii.gz\n", "columns case and image"),
        ("case,image\n../a,in/a.nii.gz\n", "is no file name"),
        ("case,image\n", "no volume"),
        ("case,image\na,in/a.nii.gz\na,in/b.nii.gz\n", "both a"),
        ("case,image\na,in/a.nii.gz\na_probabilities,in/b.nii.gz\n", "two cases would be written"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(folder, tmp_path, thresholds, capsys, rows, said):
    (tmp_path / "cases.csv").write_text(rows)
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out", "--probabilities") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_a_bad_case_is_told_and_the_rest_finish(folder, tmp_path, thresholds, capsys):
    (folder / "b.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:500])
    assert predict(thresholds, folder, tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "b.nii.gz: truncated or damaged" in printed and "2 predicted now, 0 kept, 1 bad" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "predictions.json"]


def test_what_is_done_is_kept_and_the_rest_is_predicted(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out") == 0
    before = (tmp_path / "out/a.nii.gz").stat().st_mtime_ns
    (tmp_path / "out/b.nii.gz").unlink()
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert "1 predicted now, 2 kept, 0 bad" in capsys.readouterr().out
    assert (tmp_path / "out/a.nii.gz").stat().st_mtime_ns == before
    assert predict(thresholds, folder, tmp_path / "out", "--probabilities") == 0  # the labels stay, this is added
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert "0 predicted now, 3 kept, 0 bad" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["checkpoint", "option", "image", "stranger", "no record"])
def test_nothing_that_something_else_made_is_overwritten_unasked(folder, tmp_path, thresholds, capsys, change):
    out, flags, checkpoint = tmp_path / "out", [], thresholds
    assert predict(thresholds, folder, out) == 0
    if change == "checkpoint":
        checkpoint = unet(tmp_path / "other.ckpt")
    elif change == "option":
        flags = ["--minimum_volume", "0.001"]
    elif change == "image":
        save(folder / "a.nii.gz", hounsfield(9))
    elif change == "stranger":
        (folder / "d.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
        (out / "d.nii.gz").write_bytes(b"somebody's work")
    else:
        (out / "predictions.json").unlink()
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*.gz")}
    capsys.readouterr()
    assert predict(checkpoint, folder, out, *flags) == 1
    assert "pass --overwrite" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*.gz")} == before
    assert predict(checkpoint, folder, out, *flags, "--overwrite") == 0
    assert predict(checkpoint, folder, out, *flags) == 0
    assert "0 bad" in capsys.readouterr().out.splitlines()[-3]


def test_an_input_is_never_overwritten(folder, thresholds, capsys):
    before = (folder / "a.nii.gz").read_bytes()
    assert predict(thresholds, folder / "a.nii.gz", folder, "--overwrite") == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (folder / "a.nii.gz").read_bytes() == before and len(list(folder.iterdir())) == 3


def test_a_failure_while_writing_leaves_no_file_and_the_next_run_repairs_it(folder, tmp_path, thresholds):
    def full(path, header, **arguments):
        write_volume(path, header, **arguments)
        if "b.nii" in path.name:
            raise OSError(28, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.prediction.volumes.write_volume", full)
        assert predict(thresholds, folder, tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "predictions.json"]
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["a", "b", "c"]


def test_killed_and_started_again_it_equals_an_uninterrupted_run(tmp_path):
    for number in range(4):
        save(tmp_path / "in" / f"{number}.nii.gz", np.tile(scan(number), (1, 2, 2)))
    checkpoint, out = unet(tmp_path / "x.ckpt"), tmp_path / "out"
    command = [sys.executable, ROOT / "scripts/predict.py", "--checkpoint", checkpoint, "--input", tmp_path / "in"]
    process = subprocess.Popen([*command, "--output", out], stdout=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(out.glob("[!.]*.gz")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = list(out.glob("[!.]*.gz"))
    assert done and all(len(voxels(path)) == 9 for path in done)
    assert (
        predict(checkpoint, tmp_path / "in", out) == 0 and predict(checkpoint, tmp_path / "in", tmp_path / "whole") == 0
    )
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names if "nii" in name)


def test_the_record_tells_times_volumes_and_what_made_them(folder, tmp_path, thresholds):
    assert predict(thresholds, folder / "a.nii.gz", tmp_path / "out", "--jobs", "2") == 0
    entry = record(tmp_path / "out")["a"]
    assert set(entry["seconds"]) == {"read", "preprocess", "network", "postprocess", "write"}
    assert all(seconds > 0 for seconds in entry["seconds"].values())
    expected = labels_of(hounsfield(0) // 4)
    assert entry["volumes_ml"]["kidney"] == pytest.approx((expected == 1).sum() * 0.8 * 0.8 * 2.5 / 1000)
    assert entry["checkpoints"] == [checkpoints.sha256(thresholds)]
    assert entry["classes"] == {"1": "kidney", "2": "tumor"} and entry["slices"] == 6
    assert entry["peak_memory_mb"] > 50 and entry["device"] == "cpu"


def test_windows_as_images_and_guessed_orientations_are_noted(tmp_path, thresholds, capsys):
    image = nibabel.Nifti1Image(np.clip(hounsfield(0), 0, 255).astype(np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    notes = record(tmp_path / "out")["a"]["notes"]
    assert "neither sform nor qform" in notes[0] and "HU range is not CT" in notes[1]
    assert "note: " in capsys.readouterr().out


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


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_memory_is_the_volume_its_labels_and_a_few_slices(tmp_path, thresholds, order):
    shape = tuple(np.array((300, 160, 160))[list(order)])
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], list(np.argsort(order))] = affine[3, 3] = 1
    save(tmp_path / "a.nii", np.full(shape, 100, np.int16), affine)
    assert orient(affine)[0][0] == order.index(0)
    tracemalloc.start()
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    voxel_count = 300 * 160 * 160
    assert (voxels(tmp_path / "out/a.nii.gz") == 1).all()
    assert peak < voxel_count * (2 + 1) + 20e6  # int16, uint8, and blocks that do not grow with the volume


def test_more_memory_than_allowed_is_refused_before_anything_is_read(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out", "--memory", "0.000002") == 1  # 720 voxels take 3 bytes each
    assert "--memory allows" in capsys.readouterr().out
    assert predict(thresholds, folder, tmp_path / "out", "--memory", "0.000003") == 0


def steps(log, size=1, fail=None):
    """Steps of `run_ahead` on numbers that log what they do."""

    def step(name):
        def run(item):
            log.append((name, item))
            if (name, item) == fail:
                raise ValueError(f"{name} {item}")
            time.sleep(0.002)
            return item * 10

        return run

    opened = step("open")
    return lambda item: (opened(item) // 10, size), step("read"), step("work"), step("finish")


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_case_takes_its_steps_in_order_whatever_fails(jobs):
    for fail in [("open", 2), ("read", 0), ("work", 5), ("finish", 4), None]:
        log = []
        outcomes = list(run_ahead(range(6), *steps(log, fail=fail), jobs, 100))
        assert sorted(item for item, _ in outcomes) == list(range(6))
        assert [item for item, result in outcomes if isinstance(result, Exception)] == ([fail[1]] if fail else [])
        assert all(result == item * 10 for item, result in outcomes if not isinstance(result, Exception))
        assert [item for name, item in log if name == "work"] == [
            n for n in range(6) if fail not in (("open", n), ("read", n))
        ]


@pytest.mark.parametrize(("size", "budget", "most"), [(10, 9, 1), (10, 29, 2), (10, 1000, 5)])
def test_no_more_is_read_ahead_than_the_budget_and_the_threads_allow(size, budget, most):
    log = []
    list(run_ahead(range(12), *steps(log, size), 2, budget))
    underway, highest = 0, 0
    for name, _ in log:
        underway += {"read": 1}.get(name, 0)
        highest = max(highest, underway)
        underway -= {"finish": 1}.get(name, 0)
    # two threads read ahead of the one at work, and two finish behind it
    assert highest <= most and (most == 1 or highest >= 2)


def test_the_next_case_is_read_while_one_is_worked_on():
    log = []
    list(run_ahead(range(3), *steps(log), 1, 100))
    assert log.index(("read", 1)) < log.index(("finish", 0))
    assert log.index(("open", 1)) < log.index(("work", 0))


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path):
    """A checkpoint of a network that classifies 32 x 32 color images."""
    torch.manual_seed(0)
    section = {"name": "squeezenet", "num_classes": 3}
    preprocessing = {"kind": "image", "class_names": ["nevus", "melanoma", "keratosis"], "image_size": 32}
    preprocessing |= {"in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "modality": None}
    weights = NETWORKS["squeezenet"](num_classes=3).state_dict()
    return save_checkpoint(tmp_path / "images.ckpt", section, weights, preprocessing)


def test_a_folder_of_images_becomes_a_table_of_probabilities(tmp_path, classifier, capsys):
    for seed, name in enumerate(("a", "deep/b", "c")):
        write_image(tmp_path / f"in/{name}.png", 0, seed)
    (tmp_path / "in/bad.jpg").write_bytes(b"no image")
    assert predict(classifier, tmp_path / "in", tmp_path / "out", "--batch_size", "2") == 1
    assert "bad.jpg: unreadable image" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert sorted(row["image"] for row in rows) == ["a.png", "c.png", "deep/b.png"]
    network = checkpoints.rebuild(checkpoints.load(classifier))
    preparation = Preparation(32, 3, (0.5,) * 3, (0.25,) * 3)
    for row in rows:
        image = preparation.normalize(preparation.resize(decode(tmp_path / "in" / row["image"], "image")))
        with torch.no_grad():
            shares = network(image[None]).softmax(1)[0]
        names = ["nevus", "melanoma", "keratosis"]
        assert [float(row[name]) for name in names] == pytest.approx(shares.tolist(), abs=1e-5)
        assert row["prediction"] == names[int(shares.argmax())]


def test_a_table_is_not_overwritten_unasked_and_flags_of_volumes_are_refused(tmp_path, classifier, capsys):
    image = write_image(tmp_path / "a.png", 0, 0)
    assert predict(classifier, image, tmp_path / "out", "--largest") == 2
    assert predict(classifier, image, tmp_path / "out") == 0
    assert predict(classifier, image, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "--largest" in error and "pass --overwrite" in error
    assert predict(classifier, image, tmp_path / "out", "--overwrite", "--flip") == 0


# -- real data -------------------------------------------------------------------------------------------------------


def test_a_real_ct_is_predicted_on_its_own_grid(tmp_path, thresholds):
    if not SHARED.is_dir():
        pytest.skip("no real CT at ../shared/data/totalseg_example")
    file = SHARED / "example_ct.nii.gz"
    assert predict(thresholds, file, tmp_path / "out") == 0
    assert_same_grid(nibabel.load(file), nibabel.load(tmp_path / "out/example_ct.nii.gz"))
    assert np.array_equal(voxels(tmp_path / "out/example_ct.nii.gz"), labels_of(voxels(file)))
