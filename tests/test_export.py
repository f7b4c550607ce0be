"""export.py: every form of a network answers as the checkpoint does, says what it is, and is there whole or not."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from image_stores import write_image
from lightning_fabric import Fabric
from raw_cases import kits_case, label_of, make
from safetensors.torch import load_file, save_file
from tiny_checkpoints import predict, record, voxels
from torch import Tensor, nn

from datasets.slices import SliceDataset
from networks import NETWORKS
from scripts.evaluate import main as evaluate_main
from scripts.export import main
from utils import checkpoints
from utils.config import ROOT
from utils.exporting import parity
from utils.exporting.artifact import FILES
from utils.inference import evaluate
from utils.metrics import VolumeDice
from utils.prediction.models import load_model

NAMES = ["kidney", "tumor"]


class Tiny(nn.Module):
    """A little of ENet: slopes, remembered maxima; and a grid of means, as PSPNet."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.PReLU())
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.middle = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.PReLU())
        self.means = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Conv2d(32, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        feature, indices = self.pool(self.enter(image))
        feature = self.middle(feature)
        feature = feature + nn.functional.interpolate(self.means(feature), feature.shape[-2:], mode="bilinear")
        return self.head(self.unpool(feature, indices))


class OneSize(nn.Module):
    """Knows each place of a 64x64 image by itself."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 64, 64))
        self.enter, self.head = nn.Conv2d(1, 8, 1), nn.Conv2d(8, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.enter(image) + self.place))


class Plain(nn.Module):
    """One convolution."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, num_classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image)


class Labels(nn.Module):
    """Classifies a 32x32 image."""

    taps = {}  # noqa: RUF012

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.enter(image)).mean((2, 3)))


@dataclass(frozen=True)
class Run:
    """A run of `Tiny` on sliced CTs, and its export."""

    raw: Path
    store: Path
    folder: Path
    out: Path
    said: str

    @property
    def checkpoint(self) -> dict:
        return checkpoints.load(self.folder)

    @property
    def description(self) -> dict:
        return json.loads((self.out / "student.json").read_text())


def scan(seed: int) -> np.ndarray:
    """HU (slices, H, W) = (9, 44, 50): smooth enough for a small network to see something."""
    coarse = np.random.default_rng(seed).normal(50, 150, (5, 6, 7))
    return np.kron(coarse, np.ones((2, 8, 8))).astype(np.int16)[:9, :44, :50]


def run_of(network: str, folder: Path, store: Path) -> None:
    """An untrained checkpoint as train_kd.py writes it."""
    dataset = SliceDataset(store, "train", task="all", crop=64, augment=[])
    torch.manual_seed(0)
    module = NETWORKS[network](num_classes=3)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype == torch.float32:
                value.add_(0.1 * torch.randn_like(value))
    patients = {split: dataset.split_patients(split) for split in ("train", "val", "test")}
    folder.mkdir(parents=True)
    checkpoints.save(
        {
            "network": {"name": network, "num_classes": 3},
            "weights": module.state_dict(),
            "preprocessing": dataset.preprocessing,
            "split": patients | {"sha256": dataset.split_sha256},
            "scores": {"scores": {"dice": 0.25}, "cases": []},
            "epoch": 7,
            "recipe": {
                "data": {"name": "slices", "root": str(store), "task": "all", "crop": 64, "augment": ["flip"]},
                "metric": {"name": "volume_dice"},
                "training": {"precision": "32-true", "channels_last": True, "batch_size": 4},
                "teacher": "/home/somebody/teacher.ckpt",
                "distillation": [{"name": "soft_target", "student": "logits", "teacher": "logits"}],
            },
        },
        folder / "best.ckpt",
    )


@pytest.fixture(scope="module")
def networks():
    with pytest.MonkeyPatch.context() as patch:
        for network in (Tiny, OneSize, Plain, Labels):
            patch.setitem(NETWORKS, network.__name__, network)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Raw KiTS cases and their slices: train 0 and 1 or others, one in val, one in test."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        kits_case(folder / "raw", number, image=scan(number), label=label_of(scan(number).shape))
    assert make(folder / "raw", folder / "store", "--split", "0.5", "0.25", "0.25", "--task", "organ") == 0
    return folder


@pytest.fixture(scope="module")
def run(networks, store, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "student"
    run_of("Tiny", folder, store / "store")
    digest = checkpoints.sha256(folder / "best.ckpt")
    test = {"checkpoint_sha256": digest, "cases": 1, "empty_mask_rule": "a rule", "scores": {"dice": 0.125}}
    (folder / "test.json").write_text(json.dumps(test))
    out = folder.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *lines, **_: said.append(" ".join(map(str, lines))))
        assert main(["--checkpoint", str(folder), "--output", str(out), "--license", "CC0", "--calibration", "8"]) == 0
    return Run(store / "raw", store / "store", folder, out, "\n".join(said))


@pytest.fixture(scope="module")
def plain(networks, store, tmp_path_factory) -> Path:
    """The folder of a run that is exported fast."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run_of("Plain", folder, store / "store")
    return folder


def export(folder: Path, out: Path, *flags: str) -> int:
    return main(["--checkpoint", str(folder), "--output", str(out), *map(str, flags)])


def copied(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.out, tmp_path / "copy"))


# What is in the folder


def test_every_file_is_there_and_nothing_else(run):
    assert sorted(path.name for path in run.out.iterdir()) == sorted(FILES)
    assert [path.name for path in run.out.parent.iterdir() if path.name.startswith(".")] == []


def test_the_json_says_all_that_using_the_weights_takes(run):
    said, checkpoint = run.description, run.checkpoint
    assert said["network"] == {"name": "Tiny", "num_classes": 3}
    assert said["preprocessing"] == checkpoint["preprocessing"]
    assert said["outputs"] == ["background", *NAMES]
    # 9 * 32 + 2 * 32 + 1, then 32 * 32 * 9 + 32 + 2 * 32 + 1, then 32 * 3 + 3
    assert said["parameters"] == 353 + 9313 + 99
    assert said["split"] == {"sha256": checkpoint["split"]["sha256"], "patients": {"train": 2, "val": 1, "test": 1}}
    source = {"file": "best.ckpt", "sha256": checkpoints.sha256(run.folder / "best.ckpt"), "epoch": 7}
    assert (said["source"], said["license"], said["name"]) == (source, "CC0", "student")
    assert said["scores"]["val"] == {"dice": 0.25}
    assert said["scores"]["test"] == {"cases": 1, "empty_mask_rule": "a rule", "scores": {"dice": 0.125}}
    for name, facts in said["files"].items():
        assert facts == {"bytes": (run.out / name).stat().st_size, "sha256": checkpoints.sha256(run.out / name)}
    assert set(said["files"]) == {"student.safetensors", "student.onnx", "student_int8.onnx", "student.pt2"}


def test_scores_of_another_checkpoint_are_not_this_ones(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    test = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps(test | {"checkpoint_sha256": "0" * 64}))
    assert export(folder, tmp_path / "out", "--formats", "safetensors", "--val_cases", 1) == 0
    assert json.loads((tmp_path / "out/student.json").read_text())["scores"]["test"] is None


def test_both_onnx_files_carry_the_json_in_themselves(run):
    wanted = {key: value for key, value in run.description.items() if key != "files"}
    for name, precision in (("student.onnx", "fp32"), ("student_int8.onnx", "int8")):
        held = {each.key: each.value for each in onnx.load(run.out / name).metadata_props}
        assert json.loads(held["description"]) == wanted
        assert held["precision"] == precision


def test_no_path_of_this_machine_leaves_it(run):
    for file in run.out.iterdir():
        content = file.read_bytes()
        for path in (ROOT, run.store.parent, Path(torch.__file__).parent, Path("/home/somebody")):
            assert str(path).encode() not in content, f"{file.name} names {path}"


def test_the_weights_are_the_students_alone(run):
    weights = load_file(run.out / "student.safetensors")
    expected = run.checkpoint["weights"]
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_card_tells_a_person_what_it_is_and_how_it_was_measured(run):
    card, said = (run.out / "README.md").read_text(), run.description
    dice = said["measured"]["scores"]["ONNX int8"]["dice"]
    for words in (
        "1 kidney, 2 tumor",
        "distilled from a teacher (soft_target)",
        "2 train, 1 val, 1 test",
        said["split"]["sha256"],
        "Clipped to -200 to 300 HU, scaled to [-1, 1]",
        "the KiTS rule",
        f"{dice:.4f}",
        "dice 0.1250",
        "no medical device",
        "CC0",
    ):
        assert words in card, words


def test_monai_reads_the_metadata_and_the_network_is_as_it_says(run, tmp_path):
    from monai.bundle import ConfigParser
    from monai.bundle.scripts import _get_fake_input_shape, _get_net_io_info

    parser = ConfigParser()
    parser.read_config({})
    parser.read_meta(str(run.out / "metadata.json"))
    channels, _, dtype, outputs, output_dtype = _get_net_io_info(parser)
    assert (channels, dtype, outputs, output_dtype) == (1, torch.float32, 3, torch.float32)
    image = torch.zeros(_get_fake_input_shape(parser))
    assert checkpoints.rebuild(run.checkpoint)(image).shape == (1, 3, 32, 32)
    said = json.loads((run.out / "metadata.json").read_text())
    data = said["network_data_format"]
    assert data["inputs"]["image"]["value_range"] == [-1.0, 1.0]
    assert data["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "kidney", "2": "tumor"}
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    assert required | {"task", "description", "authors", "copyright", "network_data_format"} <= set(said)


# Whether every form answers as the checkpoint does


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (2, 1, 64, 64), (3, 1, 96, 160), (1, 1, 224, 32)])
def test_onnx_answers_as_pytorch_at_any_batch_and_size(run, shape):
    session = onnxruntime.InferenceSession(run.out / "student.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # many equal maxima
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    expected = checkpoints.rebuild(run.checkpoint)(image).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_it_is_one_file_whose_axes_have_names(run):
    model = onnx.load(run.out / "student.onnx", load_external_data=False)
    assert all(each.data_location == onnx.TensorProto.DEFAULT for each in model.graph.initializer)
    axes = [each.dim_param or each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 1, "32*h", "32*w"]
    assert not {"PRelu", "ScatterND", "ScatterElements"} & {node.op_type for node in model.graph.node}


def test_the_difference_from_pytorch_is_told(run):
    rows = run.description["onnx"]["parity"]
    assert [row["shape"] for row in rows] == [[2, 1, 64, 64], [3, 1, 128, 96]]
    assert all(0 <= row["relative"] < 1e-5 and row["labels_differing"] < 1e-3 for row in rows)
    assert "any batch, height and width" in run.said


class Off(nn.Module):
    """Adds `by` to the logits of class 1 of the first image."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.cat([image, -image], 1)
        logits[0, 1, 0, 0] += self.by
        return logits


def test_parity_by_hand():
    image = torch.full((1, 1, 2, 2), 4.0)
    (row,) = parity.compare(Off(0.0), Off(10.0), [image])
    # of four pixels one is 10 off, and class 1 (6 against 4) there; the largest logit is 4
    assert row == {"shape": [1, 1, 2, 2], "max_abs_difference": 10.0, "relative": 2.5, "labels_differing": 0.25}
    parity.refuse_apart(parity.compare(Off(0.0), Off(3e-4), [image]), "x")
    for by in (5e-4, float("nan")):
        with pytest.raises(ValueError, match=r"x: its logits are up to"):
            parity.refuse_apart(parity.compare(Off(0.0), Off(by), [image]), "x")


def test_int8_is_smaller_per_channel_and_calibrated_on_train(run):
    sizes = {name: facts["bytes"] for name, facts in run.description["files"].items()}
    assert sizes["student_int8.onnx"] < 0.7 * sizes["student.onnx"]
    model = onnx.load(run.out / "student_int8.onnx")
    weights = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    assert sum(each.dtype == np.int8 and each.shape == (32, 32, 3, 3) for each in weights) == 1
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert any(each.dtype == np.float32 and each.shape == (32,) and each.min() > 0 for each in weights)  # scales
    facts = run.description["int8"]
    assert facts["images"] == 8 and facts["labels_differing"] < 0.1
    assert facts["ranges"] in ("extremes", "mean extremes")


def test_the_exported_program_runs_at_other_sizes(run):
    program = torch.export.load(run.out / "student.pt2").module()
    image = torch.randn(1, 1, 160, 448)
    torch.testing.assert_close(program(image), checkpoints.rebuild(run.checkpoint)(image))


@pytest.mark.parametrize("what", ["", "student.safetensors", "student.onnx"])
def test_predictions_are_those_of_the_checkpoint(run, tmp_path, what):
    source = run.raw / "case_00001" / "imaging.nii.gz"
    assert predict(run.folder, source, tmp_path / "torch") == 0
    assert predict(run.out / what, source, tmp_path / "out") == 0
    (ours, entry), (theirs, _) = (
        (voxels(next((tmp_path / name).glob("*.nii.gz"))), next(iter(record(tmp_path / name).values())))
        for name in ("out", "torch")
    )
    assert np.array_equal(ours, theirs) and set(np.unique(ours)) == {0, 1, 2}
    assert entry["formats"] == [{"student.onnx": "onnx fp32"}.get(what, "safetensors")]
    assert entry["classes"] == {"1": "kidney", "2": "tumor"}


def test_forms_are_averaged_with_each_other(run, tmp_path):
    source = run.raw / "case_00001" / "imaging.nii.gz"
    forms = [str(run.out / "student_int8.onnx"), str(run.folder)]
    assert predict(forms[0], source, tmp_path / "one", "--probabilities") == 0
    assert predict(forms[1], source, tmp_path / "two", "--probabilities") == 0
    assert predict(forms[0], source, tmp_path / "both", "--probabilities", "--checkpoint", *forms) == 0
    one, two, both = (voxels(next((tmp_path / name).glob("*_probabilities.nii.gz"))) for name in ("one", "two", "both"))
    np.testing.assert_allclose(both, (one + two) / 2, atol=2e-3)  # float16 on the way
    assert not np.array_equal(one, two)
    assert next(iter(record(tmp_path / "both").values()))["formats"] == ["onnx int8", "checkpoint"]


# What was measured


def test_dice_is_the_metrics_own_on_val(run):
    measured, checkpoint = run.description["measured"], run.checkpoint
    val = SliceDataset(run.store, "val", task="all", crop=64)
    metric = VolumeDice(NAMES)
    scores, _ = evaluate(Fabric(accelerator="cpu"), checkpoints.rebuild(checkpoint), val, [metric], batch_size=4)
    assert (measured["split"], measured["score"], measured["cases"], measured["images"]) == ("val", "dice", 1, 9)
    for form in ("PyTorch fp32", "ONNX fp32"):
        assert measured["scores"][form]["dice"] == pytest.approx(scores["dice"], abs=1e-12)
    assert measured["scores"]["ONNX int8"]["dice"] != measured["scores"]["ONNX fp32"]["dice"]
    assert all(value > 0 for value in measured["milliseconds"].values())
    assert (measured["timed_shape"], measured["threads"]) == ([4, 1, 64, 64], torch.get_num_threads())
    assert f"{scores['dice']:.4f}" in run.said and "1 cases, 9 images" in run.said


def test_the_test_split_is_never_opened(plain, store, tmp_path):
    for name, cases in (("whole", []), ("rest", checkpoints.load(plain)["split"]["test"])):
        folder = Path(shutil.copytree(store / "store", tmp_path / name))
        for case in cases:
            shutil.rmtree(folder / case)
        flags = ["--data", folder, "--formats", "onnx", "int8", "--calibration", 2]
        assert export(plain, tmp_path / f"of {name}", *flags) == 0
    whole, rest = (
        json.loads((tmp_path / f"of {name}" / "student.json").read_text())["measured"]["scores"]
        for name in ("whole", "rest")
    )
    assert whole == rest and set(whole) == {"PyTorch fp32", "ONNX fp32", "ONNX int8"}


def test_without_the_data_the_rest_is_exported(plain, tmp_path, capsys):
    assert export(plain, tmp_path / "out", "--data", tmp_path / "gone") == 0
    error = capsys.readouterr().err
    assert "scores not measured, the val split is not there" in error and "no int8" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES) - {"student_int8.onnx"}
    assert "were not measured" in (tmp_path / "out/README.md").read_text()


def test_int8_asked_for_by_name_needs_the_data(plain, tmp_path, capsys):
    assert export(plain, tmp_path / "out", "--data", tmp_path / "gone", "--formats", "int8") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train split is not there" in error
    assert list(tmp_path.iterdir()) == []


def test_data_split_anew_is_not_scored(run, tmp_path, capsys):
    store = Path(shutil.copytree(run.store, tmp_path / "store"))
    manifest = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": "1" * 64}))
    assert export(run.folder, tmp_path / "out", "--data", store, "--formats", "safetensors") == 0
    assert "split anew" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["measured"] is None


@pytest.mark.parametrize("name", ["student.onnx", "student.safetensors"])
def test_an_exported_file_is_evaluated_as_its_checkpoint(run, tmp_path, capsys, name):
    flags = ["--split", "test", "--jobs", "1", "--data", str(run.store)]
    out = copied(run, tmp_path)
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    assert evaluate_main(["--checkpoint", str(folder), *flags]) == 0
    assert evaluate_main(["--checkpoint", str(out / name), *flags]) == 0
    ours, theirs = (
        json.loads(path.read_text())["rows"]
        for path in (out / "student_test_scores.json", folder / "best_test_scores.json")
    )
    assert ours == theirs
    manifest = json.loads((run.store / "dataset.json").read_text())
    store = Path(shutil.copytree(run.store, tmp_path / "store"))
    (store / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": "1" * 64}))
    assert evaluate_main(["--checkpoint", str(out / name), *flags[:-1], str(store), "--again"]) == 2
    assert "another split" in capsys.readouterr().err


# Whole or not at all


def test_a_form_that_answers_otherwise_is_refused_and_nothing_is_left(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    assert export(plain, tmp_path / "out", "--formats", "safetensors", "onnx") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing was written" in error
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_stays_when_the_next_one_fails(run, plain, tmp_path, capsys, monkeypatch):
    out = copied(run, tmp_path)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert export(plain, out, "--formats", "safetensors") == 2
    assert "pass --overwrite" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(parity, "TOLERANCE", 0.0)
        assert export(plain, out, "--overwrite", "--formats", "onnx") == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert export(plain, out, "--overwrite", "--formats", "safetensors", "--val_cases", 1) == 0
    assert {path.name for path in out.iterdir()} == {
        "student.safetensors",
        "student.json",
        "README.md",
        "metadata.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_folder_with_other_things_is_never_replaced(run, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    assert export(run.folder, tmp_path, "--overwrite", "--formats", "safetensors") == 2
    assert "holds thesis.tex" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("flags", [("--calibration", "0"), ("--val_cases", "-1")])
def test_numbers_that_cannot_be_are_refused(run, tmp_path, capsys, flags):
    assert export(run.folder, tmp_path / "out", *flags) == 2
    assert f"{flags[0]} {flags[1]}: give 1 or more" in capsys.readouterr().err


def test_an_export_is_not_exported_again(run, tmp_path, capsys):
    assert export(run.out / "student.onnx", tmp_path / "out") == 2
    assert "is exported already" in capsys.readouterr().err


# Files that are not what they say


def changed(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_bit(folder: Path) -> None:
    file = folder / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def drop_a_weight(folder: Path) -> None:
    file = folder / "student.safetensors"
    weights = load_file(file)
    weights.pop("head.bias")
    save_file(weights, file)
    known = json.loads((folder / "student.json").read_text())["files"]
    known["student.safetensors"]["sha256"] = checkpoints.sha256(file)
    changed(folder / "student.json", files=known)


def truncate(name: str, share: float):
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return cut


def relabel(folder: Path) -> None:
    model = onnx.load(folder / "student.onnx")
    held = json.loads(model.metadata_props[0].value)
    held["preprocessing"]["class_names"] = ["kidney"]
    onnx.helper.set_model_props(model, {"description": json.dumps(held)})
    onnx.save(model, folder / "student.onnx")


def undescribe(folder: Path) -> None:
    model = onnx.load(folder / "student.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "student.onnx")


def preprocess(**changes):
    def change(folder: Path) -> None:
        known = json.loads((folder / "student.json").read_text())["preprocessing"]
        changed(folder / "student.json", preprocessing=known | changes)

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("student.safetensors", flip_a_bit, "is not the file that"),
        ("student.safetensors", drop_a_weight, "do not fit its network"),
        ("student.safetensors", truncate("student.safetensors", 0.5), "is not the file that"),
        ("student.safetensors", truncate("student.json", 0.5), "holds no description"),
        ("student.safetensors", lambda folder: (folder / "student.json").unlink(), "no such file"),
        ("student.safetensors", lambda folder: (folder / "student.json").write_text("[1]"), "holds no description"),
        ("student.safetensors", lambda folder: changed(folder / "student.json", schema=9), "schema 9"),
        (
            "student.safetensors",
            lambda folder: changed(folder / "student.json", network={"name": "resnet18", "pretrained": "x.pt"}),
            "asks for other weights",
        ),
        ("student.safetensors", preprocess(window="wide"), "preprocessing has window"),
        ("student.safetensors", preprocess(pad_value=float("nan")), "preprocessing has pad_value"),
        ("student.safetensors", preprocess(class_names=["a", "a"]), "preprocessing has class_names"),
        ("student.safetensors", preprocess(crop=-64), "preprocessing has crop"),
        ("student.onnx", truncate("student.onnx", 0.5), "ONNX Runtime cannot load it"),
        ("student.onnx", truncate("student.onnx", 0.0), "ONNX Runtime cannot load it"),
        ("student.onnx", lambda folder: (folder / "student.onnx").write_bytes(b"\x80\x04x."), "cannot load it"),
        ("student.onnx", undescribe, "does not say what it labels"),
        ("student.onnx", relabel, "its description says"),
        ("student.json", lambda folder: None, "is the description"),
        ("gone.onnx", lambda folder: None, "no such file"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_clear_line(run, tmp_path, capfd, name, change, message):
    folder = copied(run, tmp_path)
    change(folder)
    source = run.raw / "case_00001" / "imaging.nii.gz"
    assert predict(folder / name, source, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


# Networks that take one size, and those that classify


def test_a_network_of_one_size_says_so_and_smaller_slices_are_padded(networks, store, tmp_path, capsys):
    run_of("OneSize", tmp_path / "run", store / "store")
    assert export(tmp_path / "run", tmp_path / "out", "--formats", "onnx", "--data", store / "store") == 0
    assert "OneSize cannot be exported for any size, its ONNX takes 64x64 only" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["onnx"]["size"] == [64, 64]
    source = store / "raw/case_00001/imaging.nii.gz"
    assert predict(tmp_path / "run", source, tmp_path / "torch") == 0
    assert predict(tmp_path / "out/student.onnx", source, tmp_path / "onnx") == 0
    ours, theirs = (voxels(next((tmp_path / name).glob("*.nii.gz"))) for name in ("onnx", "torch"))
    assert np.array_equal(ours, theirs)
    network = load_model(tmp_path / "out/student.onnx").network
    assert network.pad_value == -1.0  # the low end of the window
    image = torch.randn(2, 1, 32, 64)
    padded = torch.full((2, 1, 64, 64), -1.0)
    padded[:, :, 16:48] = image  # evenly on both sides
    expected = checkpoints.rebuild(checkpoints.load(tmp_path / "run"))(padded)[:, :, 16:48]
    torch.testing.assert_close(network(image), expected.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes images of at most 64x64, not 96x64"):
        network(torch.zeros(1, 1, 96, 64))


def test_a_classifier_is_exported_and_answers_as_its_checkpoint(networks, tmp_path, capsys):
    torch.manual_seed(0)
    preprocessing = {"kind": "image", "class_names": ["benign", "malignant"], "image_size": 28, "in_channels": 3}
    preprocessing |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint = {
        "network": {"name": "Labels", "num_classes": 2},
        "weights": Labels().state_dict(),
        "preprocessing": preprocessing,
        "split": {"train": ["a"], "val": [], "test": [], "sha256": "0" * 64},
        "scores": {"scores": {}, "cases": []},
        "recipe": {"training": {"precision": "32-true", "channels_last": True}},
    }
    checkpoints.save(checkpoint, tmp_path / "x.ckpt")
    assert export(tmp_path / "x.ckpt", tmp_path / "out", "--formats", "safetensors", "onnx") == 0
    assert "scores not measured" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["outputs"] == ["benign", "malignant"]
    for number in range(5):
        write_image(tmp_path / f"in/{number}.png", number % 3, number)
    tables = []
    for name in ("x.ckpt", "out/student.onnx", "out"):
        assert predict(tmp_path / name, tmp_path / "in", tmp_path / f"table{len(tables)}") == 0
        with (tmp_path / f"table{len(tables)}/predictions.csv").open() as file:
            tables.append(list(csv.reader(file)))
    assert tables[0][0] == ["image", "prediction", "benign", "malignant"] and len(tables[0]) == 6
    for table in tables[1:]:
        assert [row[:2] for row in table] == [row[:2] for row in tables[0]]
        np.testing.assert_allclose(
            *(np.array([row[2:] for row in t[1:]], float) for t in (table, tables[0])), atol=2e-6
        )
