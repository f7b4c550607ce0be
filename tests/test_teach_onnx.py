"""scripts/TeachWith.py --onnx: any network by its sidecar, there and back over spacing and orientation."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
import yaml
from monai.inferers import sliding_window_inference
from onnx import TensorProto, helper, numpy_helper

from datasets.slices.soft_codes import decode
from datasets.slices.soft_maps import read_maps
from datasets.slices.store import read_index, read_slice
from datasets.splits import SPLITS
from tests.raw_cases import KITS, hounsfield, kits_case, label_of, make
from tests.teachers import made_by, teach
from tests.test_dicom import write_series
from utils.teaching.grids import slices_affine
from utils.teaching.onnx_teacher import OnnxTeacher, scaled, wanted_grid
from utils.teaching.sidecar import Sidecar, read_sidecar
from utils.teaching.store import read_store
from utils.teaching.teacher import Wish

SHAPE = (14, 24, 28)  # slices, rows, columns of 2.5 x 0.8 x 0.8 mm
ASKED = {
    "classes": ["kidney", "tumor"],
    "orientation": "SPL",
    "spacing": [2.5, 0.8, 0.8],
    "patch": [8, 16, 16],
    "clip": [-200, 300],
    "mean": 50,
    "deviation": 250,
    "license": "CC-BY 4.0",
}


def network(path, patch, seed=0, weight=None, bias=None):
    """An ONNX file of one convolution, of three classes unless the weights say otherwise, and these in torch."""
    random, dimensions = np.random.default_rng(seed), len(patch)
    if weight is None:
        weight = random.normal(0, 0.4, (3, 1, *[3] * dimensions)).astype(np.float32)
        bias = random.normal(0, 0.4, 3).astype(np.float32)
    pads = [weight.shape[-1] // 2] * (2 * dimensions)
    node = helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], pads=pads)
    tensors = [numpy_helper.from_array(each, name) for name, each in (("weight", weight), ("bias", bias))]
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, *patch])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(bias), *patch])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path, torch.from_numpy(weight), torch.from_numpy(bias)


def sidecar(path, **changes):
    path.write_text(yaml.safe_dump({**ASKED, **changes}))
    return path


@pytest.fixture
def store(tmp_path, capsys):
    for number in range(3):
        image = hounsfield(number, SHAPE) // 5
        kits_case(tmp_path / "raw", number, image=image, label=label_of(SHAPE))
    assert make(tmp_path / "raw", tmp_path / "store") == 0
    capsys.readouterr()
    return tmp_path / "store"


def images_of(store, case):
    return np.stack([read_slice(record.path)[0] for record in read_index(store) if record.case == case])


@pytest.mark.parametrize("patch", [[8, 16, 16], [16, 16]])
def test_maps_equal_a_direct_sliding_window(store, tmp_path, patch):
    file, weight, bias = network(tmp_path / "net.onnx", patch)
    flags = ("--onnx", file, "--sidecar", sidecar(tmp_path / "net.yaml", patch=patch, overlap=0.25))
    assert teach(store, tmp_path / "maps", *flags) == 0
    case = next(iter(read_maps(tmp_path / "maps").cases))
    image = torch.from_numpy((np.clip(images_of(store, case).astype(np.float32), -200, 300) - 50) / 250)
    if len(patch) == 2:
        logits = sliding_window_inference(
            image[:, None], patch, 4, lambda x: torch.conv2d(x, weight, bias, padding=1), 0.25, "gaussian"
        )
    else:
        whole = image[None, None]
        logits = sliding_window_inference(
            whole, patch, 4, lambda x: torch.conv3d(x, weight, bias, padding=1), 0.25, "gaussian"
        )[0].swapaxes(0, 1)
    expected = logits.softmax(1)[:, 1:].numpy()
    assert expected.std() > 0.05
    assert np.abs(decode(read_maps(tmp_path / "maps").slices(case)) - expected).max() < 1 / 255
    (teacher,) = made_by(tmp_path / "maps")
    assert teacher["license"] == "CC-BY 4.0" and teacher["settings"]["overlap"] == 0.25


@pytest.mark.parametrize("asked", [(), ("--spacing", "1.6")])
@pytest.mark.parametrize(("orientation", "spacing"), [("RAS", [1.5, 1.5, 2.0]), ("PSR", [1.1, 2.2, 1.3])])
def test_a_ball_of_known_millimeters_returns(tmp_path, orientation, spacing, asked):
    """A network that finds what is above -100 HU, in another orientation and spacing than the scan's."""
    shape, center, radius = (24, 48, 56), np.array([20.0, 10.0, -10.0]), 10.0
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ KITS[:3, :3].T + KITS[:3, 3]
    image = 800 / (1 + np.exp(np.linalg.norm(places - center, axis=-1) - radius)) - 500
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=(image - number).astype(np.int16), label=label_of(shape))
    assert make(tmp_path / "raw", tmp_path / "store", *asked) == 0
    weight, bias = np.float32([0, 0.05]).reshape(2, 1, 1, 1, 1), np.float32([0, 5])
    file, _, _ = network(tmp_path / "net.onnx", [16, 16, 16], weight=weight, bias=bias)
    how = {"classes": ["ball"], "clip": None, "mean": 0, "deviation": 1, "patch": [16, 16, 16]}
    beside = sidecar(tmp_path / "net.yaml", orientation=orientation, spacing=spacing, **how)
    assert teach(tmp_path / "store", tmp_path / "maps", "--onnx", file, "--sidecar", beside) == 0
    maps = read_maps(tmp_path / "maps")
    case = next(iter(maps.cases))
    found = decode(maps.slices(case))[:, 0]
    geometry = json.loads((tmp_path / "store" / case / "geometry.json").read_text())
    scale = np.array([geometry["shape"][axis] for axis in geometry["axes"]]) / found.shape
    places = (np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), -1) + 0.5) * scale - 0.5
    affine = slices_affine(geometry)
    places = places @ affine[:3, :3].T + affine[:3, 3]
    voxel = 2.5 * 0.8 * 0.8 * scale.prod()
    assert found.sum() * voxel == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    weighted = (places * found[..., None]).sum((0, 1, 2)) / found.sum()
    assert np.abs(weighted - center).max() < 0.2
    truth = np.linalg.norm(places - center, axis=-1) < radius
    assert 2 * (truth & (found > 0.5)).sum() / (truth.sum() + (found > 0.5).sum()) > 0.95


def test_another_grid_covers_the_same_field_of_view():
    affine, shape = wanted_grid(slices_affine_of(KITS), SHAPE, "RAS", (1.6, 1.6, 5.0))
    assert shape == (14, 12, 7)
    assert np.allclose(np.diag(affine)[:3], [1.6, 1.6, 5.0])
    corner = affine @ [-0.5, -0.5, -0.5, 1]  # right, anterior, superior grow from the corner that is lowest in each
    there = slices_affine_of(KITS) @ [-0.5, SHAPE[1] - 0.5, SHAPE[2] - 0.5, 1]
    assert np.allclose(corner, there)


def slices_affine_of(affine):
    from datasets.volumes.geometry import orient

    axes, flips = orient(affine)
    return slices_affine({"affine": affine, "axes": axes, "flips": flips, "shape": SHAPE})


def test_intensities_without_numbers_are_those_of_the_volume():
    sidecar = Sidecar(["a"], "RAS", [1.0] * 3, [8] * 3)
    image = scaled(np.arange(27, dtype=np.float32).reshape(3, 3, 3), sidecar)
    assert image.mean() == pytest.approx(0, abs=1e-6) and image.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("orientation", "RAR", "give three letters"),
        ("spacing", [1.0, 0.0, 1.0], "give three numbers of mm above 0"),
        ("patch", [16], "give three numbers of voxels"),
        ("clip", [300, -200], "the lower first"),
        ("deviation", 0.0, "give a number above 0"),
        ("overlap", 1.0, "from 0 to below 1"),
        ("classes", ["a", "a"], "name each foreground class, once"),
        ("activation", "tanh", "activation"),
        ("patches", 3, "patches"),
    ],
)
def test_a_sidecar_that_cannot_be_meant_is_refused_in_one_line(tmp_path, key, value, what):
    with pytest.raises(ValueError, match=what) as error:
        read_sidecar(sidecar(tmp_path / "net.yaml", **{key: value}))
    assert str(error.value).startswith(f"{tmp_path / 'net.yaml'}: ") and "\n" not in str(error.value)


def test_a_network_that_is_not_of_its_sidecar_is_refused(store, tmp_path, capsys):
    file, _, _ = network(tmp_path / "net.onnx", [8, 16, 16])
    beside = sidecar(tmp_path / "net.yaml", patch=[8, 8, 8])
    assert teach(store, tmp_path / "maps", "--onnx", file, "--sidecar", beside) == 2
    assert "takes [[None, 1, 8, 16, 16]], not one float32 image" in capsys.readouterr().err
    beside = sidecar(tmp_path / "net.yaml", classes=["kidney"])
    assert teach(store, tmp_path / "maps", "--onnx", file, "--sidecar", beside) == 2  # before any case
    assert "not 2 channels of the same size" in capsys.readouterr().err and not (tmp_path / "maps").exists()
    assert teach(store, tmp_path / "other", "--onnx", file) == 2
    assert "give --sidecar YAML" in capsys.readouterr().err
    file.write_bytes(b"no network")
    assert teach(store, tmp_path / "other", "--onnx", file, "--sidecar", beside) == 2
    assert "cannot load it" in capsys.readouterr().err


@pytest.mark.parametrize("background", [False, True])
def test_a_channel_for_each_class_is_read_with_background_or_without(store, tmp_path, background):
    """The commonest file of all: one class, one channel, a sigmoid."""
    random = np.random.default_rng(1)
    weight = random.normal(0, 0.4, (1 + background, 1, 1, 1)).astype(np.float32)
    bias = np.zeros(1 + background, np.float32)
    file, _, _ = network(tmp_path / "net.onnx", [16, 16], weight=weight, bias=bias)
    beside = sidecar(tmp_path / "net.yaml", classes=["kidney"], patch=[16, 16], activation="sigmoid")
    cases = read_store(store, ("train",))
    teacher = OnnxTeacher(Wish("onnx", (file,), store, ("train",), sidecar=beside), cases)
    (found,), _ = teacher.answer(cases.cases[0])
    image = (np.clip(cases.cases[0].stored_image().astype(np.float32), -200, 300) - 50) / 250
    assert np.abs(found - 1 / (1 + np.exp(-image * weight[-1].item()))).max() < 1e-5 and found.std() > 0.01


def test_a_resampled_store_is_taught_from_its_sources(tmp_path, capsys):
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, SHAPE) // 5, label=label_of(SHAPE))
    assert make(tmp_path / "raw", tmp_path / "store", "--spacing", "1.6") == 0
    file, _, _ = network(tmp_path / "net.onnx", [8, 16, 16])
    flags = ("--onnx", file, "--sidecar", sidecar(tmp_path / "net.yaml"))
    image = tmp_path / "raw/case_00000/imaging.nii.gz"
    kept = image.read_bytes()
    image.write_bytes((tmp_path / "raw/case_00001/imaging.nii.gz").read_bytes())
    every = ("--splits", "train", "val", "test")
    assert teach(tmp_path / "store", tmp_path / "maps", *flags, *every) == 1
    assert (
        f"{image}: has changed since it was sliced: the store is resampled, and case_00000 must"
        in capsys.readouterr().out
    )
    image.write_bytes(kept)
    assert teach(tmp_path / "store", tmp_path / "maps", *flags, *every) == 0
    assert "1 cases made now, 2 kept" in capsys.readouterr().out


def test_dicom_series_are_taught_as_the_volumes_that_they_are(tmp_path):
    """Two series of a patient in one folder: of a resampled store the teacher is given the right one, at full size."""
    for series in range(2):
        folder = tmp_path / f"scans/{series}"
        write_series(folder, places=range(5 - series), tags={"0020|000e": f"1.2.{series}", "0010|0020": "patient"})
        for file in folder.iterdir():
            file.rename(folder.parent / f"{series}_{file.name}")
        folder.rmdir()
    file, _, _ = network(tmp_path / "net.onnx", [4, 8, 8])
    beside, every = sidecar(tmp_path / "net.yaml", patch=[4, 8, 8]), ("--splits", "train", "val", "test")
    sources = {}
    for name, asked in (("native", ()), ("resampled", ("--spacing", "1.1"))):
        assert make(tmp_path / "scans", tmp_path / name, *asked, dataset="unlabeled") == 0
        assert teach(tmp_path / name, tmp_path / f"{name}_maps", "--onnx", file, "--sidecar", beside, *every) == 0
        assert len(read_maps(tmp_path / f"{name}_maps").cases) == 2
        sources[name] = [case.source_image() for case in read_store(tmp_path / name, SPLITS).cases]
    assert {len(image) for image in sources["native"]} == {4, 5}
    assert all(map(np.array_equal, sources["native"], sources["resampled"]))
    shutil.move(tmp_path / "scans/1_0.dcm", tmp_path / "1_0.dcm")
    again = read_store(tmp_path / "resampled", SPLITS).cases
    assert np.array_equal(again[0].source_image(), sources["native"][0])
    with pytest.raises(ValueError, match=r"scans: .*: the store is resampled, and .* put it back, or slice again"):
        again[1].source_image()
