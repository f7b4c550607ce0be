"""export.py: every form of a network answers as the checkpoint does, and says what it is."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from tiny_checkpoints import predict, record, voxels
from tiny_exports import export, networks, run_of, store
from torch import Tensor, nn

from datasets.slices.dataset import SliceDataset
from scripts.export import main
from utils.evaluation.inference import evaluate
from utils.evaluation.metrics import VolumeDice
from utils.exporting import parity
from utils.recipe.schema import ROOT
from utils.runs.artifact import FILES
from utils.training import checkpoints

__all__ = ["networks", "store"]  # fixtures
NAMES = ["kidney", "tumor"]


@dataclass(frozen=True)
class Run:
    """A run of `Tiny` on sliced CTs, and its export, made after the slices of the test split were deleted."""

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


@pytest.fixture(scope="module")
def run(networks, store, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "student"
    slices = Path(shutil.copytree(store / "store", folder.with_name("store")))
    run_of("Tiny", folder, slices)
    for case in checkpoints.load(folder)["split"]["test"]:
        shutil.rmtree(slices / case)
    digest = checkpoints.sha256(folder / "best.ckpt")
    rows = [{"case": "case_00003", "class": "kidney", "dice": 0.125}]
    test = {"checkpoint_sha256": digest, "data": {}, "cases": 1, "empty_mask_rule": "a rule"}
    test |= {"scores": {"dice": 0.125}, "rows": rows}
    (folder / "test.json").write_text(json.dumps(test))
    out = folder.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *lines, **_: said.append(" ".join(map(str, lines))))
        assert main(["--checkpoint", str(folder), "--output", str(out), "--license", "CC0", "--calibration", "8"]) == 0
    return Run(store / "raw", slices, folder, out, "\n".join(said))


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
        "not a medical device",
        "CC0",
    ):
        assert words in card, words


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


def test_the_test_split_is_never_opened(run):
    (case,) = run.checkpoint["split"]["test"]
    assert not (run.store / case).exists()
    assert set(run.description["measured"]["scores"]) == {"PyTorch fp32", "ONNX fp32", "ONNX int8"}


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
