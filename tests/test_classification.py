"""Classification runs through the same loop, objectives, checkpoints and guards as segmentation."""

import json
import signal

import numpy as np
import pytest
import torch
from image_stores import write_medmnist
from loss_features import make
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets import DATASETS
from networks import NETWORKS
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.evaluation.drawing import draw_confusion
from utils.evaluation.pictures import confusion_counts, representative
from utils.experiment.prepare import prepare
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints

TEACHER = [
    f"--config={ROOT / 'configs/dermamnist_teacher.yaml'}",
    "--data.image_size=32",
    "--training.batch_size=8",
    "--training.epochs=2",
    "--training.log_every=2",
]
STUDENT = [
    f"--config={ROOT / 'configs/dermamnist_student.yaml'}",
    f"--config={ROOT / 'configs/methods/skin_lesion.yaml'}",
    *TEACHER[1:],
    "--training.share_every=2",
]


def run_teacher(file, output, *flags) -> int:
    arguments = [*TEACHER, f"--data.file={file}", f"--output={output}", '--network={"name": "squeezenet"}', *flags]
    return main(parse(Recipe, "test", arguments))


def run_student(file, output, *flags) -> int:
    teacher = file.parent / "teacher" / "best.ckpt"
    arguments = [*STUDENT, f"--data.file={file}", f"--output={output}", f"--teacher={teacher}", *flags]
    return main(parse(DistillationRecipe, "test", arguments))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A MedMNIST file with a trained teacher beside it, in `teacher/`. Only to be read."""
    file = write_medmnist(tmp_path_factory.mktemp("taught") / "spots.npz")
    assert run_teacher(file, file.parent / "teacher") == 0
    return file


def test_a_student_is_distilled_tested_once_and_pictured_beside_its_teacher(taught, tmp_path, capsys):
    run = tmp_path / "student"
    assert run_student(taught, run, "--mode=both") == 0
    printed = capsys.readouterr().out
    assert "soft_target/logits" in printed
    assert "teacher: scored again on 6 val cases" in printed
    result = json.loads((run / "test.json").read_text())
    assert result["cases"] == 8
    assert {"accuracy", "balanced_accuracy", "auroc", "calibration_error"} <= result["scores"].keys()
    right = [row["prediction"] == row["target"] for row in result["rows"]]
    assert result["scores"]["accuracy"] == pytest.approx(np.mean(right))
    assert len(Image.open(run / "test_answers.png").getcolors(2**20)) > 2
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert {"val/answers", "val/confusion"} <= set(events.Tags()["images"])
    assert {"val/accuracy", "gradient_share/soft_target/logits"} <= set(events.Tags()["scalars"])


def test_a_resumed_run_ends_in_the_same_weights(taught, tmp_path, monkeypatch):
    assert run_student(taught, tmp_path / "whole") == 0
    images = type(DATASETS["medmnist"](str(taught), "train"))
    gather, steps = images.gather, []

    def interrupting(dataset, indices):
        steps.extend([indices] if len(indices) == 8 else [])  # others are gathered beside the training
        if len(steps) == 3:  # the first of two in the second epoch
            signal.raise_signal(signal.SIGTERM)
        return gather(dataset, indices)

    monkeypatch.setattr(images, "gather", interrupting)
    assert run_student(taught, tmp_path / "parts") == 128 + signal.SIGTERM
    stopped = checkpoints.load(tmp_path / "parts" / "last.ckpt")["training"]["progress"]
    assert (stopped["epoch"], stopped["position"]) == (1, 1)
    monkeypatch.setattr(images, "gather", gather)
    assert run_student(taught, tmp_path / "parts", "--resume") == 0
    whole, parts = (checkpoints.load(tmp_path / name / "last.ckpt")["weights"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_training_stops_when_the_score_no_longer_rises(tmp_path):
    file = write_medmnist(tmp_path / "spots.npz")
    flags = ("--training.epochs=9", "--training.patience=2", "--training.learning_rate=1e-12")
    assert run_teacher(file, tmp_path / "stopped", *flags, "--training.minimum_learning_rate=0") == 0
    assert checkpoints.load(tmp_path / "stopped" / "last.ckpt")["epoch"] == 3  # best at 1, then two without a gain


def test_network_loss_and_data_of_different_kinds_are_refused_before_any_step(tmp_path, capsys):
    file = write_medmnist(tmp_path / "spots.npz")
    assert run_teacher(file, tmp_path / "run", '--network={"name": "enet"}') == 1
    assert "ENet answers an image with (3, 32, 32), its target is one class" in capsys.readouterr().err
    assert run_teacher(file, tmp_path / "run", '--metric={"name": "volume_dice"}') == 1
    assert "do not belong together" in capsys.readouterr().err
    assert run_teacher(file, tmp_path / "run", '--task_loss={"name": "dice"}') == 1
    assert "do not belong together" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_teacher_of_images_normalized_otherwise_is_refused(taught, tmp_path, capsys):
    assert run_student(taught, tmp_path / "student", "--data.normalization=half") == 1
    assert "the teacher was trained with mean" in capsys.readouterr().err


def test_class_weights_come_from_the_training_images(tmp_path):
    file = write_medmnist(tmp_path / "spots.npz")  # 12, 6 and 3 images of three classes
    section = '--task_loss={"name": "cross_entropy", "class_weights": "balanced"}'
    arguments = [*TEACHER, f"--data.file={file}", f"--output={tmp_path / 'run'}", '--network={"name": "squeezenet"}']
    loss = prepare(parse(Recipe, "test", [*arguments, section])).task.loss
    assert loss.class_weights.tolist() == pytest.approx([21 / 36, 21 / 18, 21 / 9])


def test_hdkd_runs_each_network_once_a_step():
    torch.manual_seed(0)
    student, teacher = NETWORKS["HDKD"](num_classes=3, image_size=32), NETWORKS["teacher_model"](num_classes=3)
    terms = read_terms(
        [
            {"name": "soft_target", "student": "distillation_logits", "teacher": "logits", "weight": 0.5},
            *(
                {"name": "hint", "student": f"stage{n}", "teacher": f"stage{n}", "weight": 10 * n, "projector": "none"}
                for n in (1, 2, 3)
            ),
        ]
    )
    distiller = Distiller(student, Task(TASK_LOSSES["cross_entropy"](), "class_logits", 0.5), teacher, terms).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    losses = distiller(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    sum(distiller.weights[name] * loss for name, loss in losses.items()).backward()
    # The published code runs the student's prefix again for each stage, and updates its statistics as often.
    counters = {name: value for name, value in student.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counters
    assert {int(value) for value in counters.values()} == {1}
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_every_distillation_loss_serves_both_tasks_or_says_why_not():
    logits, target = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    maps, labels = torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 1, 8, 8))
    of_maps_only = {"attention_transfer", "holistic", "pairwise", "region_affinity", "unified_attention"} | {
        *("attention_feature", "body_edge", "channel_wise", "cross_image", "dice_semimetric"),
        *("region_normalized", "wavelet"),
    }
    for name in DISTILLATION_LOSSES:
        assert make(name)(maps, maps.clone(), labels).ndim == 0, name
        if name not in of_maps_only:
            assert make(name)(logits, logits.clone(), target).ndim == 0, name


def test_supervised_reads_the_head_that_the_recipe_names():
    network = NETWORKS["HDKD"](num_classes=3, image_size=32).eval()
    image, target = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    loss = TASK_LOSSES["cross_entropy"]()
    both, one = (Distiller(network, Task(loss, on))(image, target)["task"] for on in ("logits", "class_logits"))
    assert not torch.equal(both, one)


def test_pictured_images_take_every_class_in_turn(tmp_path):
    dataset = DATASETS["medmnist"](str(write_medmnist(tmp_path / "spots.npz")), "val")  # 3, 2 and 1 images
    assert [dataset.labels[index] for index in representative(dataset, 5)] == [0, 1, 2, 0, 1]
    assert len(representative(dataset, 100)) == 6


def test_the_confusion_matrix_is_darker_where_more_of_a_row_lies():
    rows = [{"target": 0, "prediction": 0}] * 9 + [{"target": 0, "prediction": 1}]
    picture = draw_confusion(confusion_counts(rows, ["a", "b"]), ["a", "b"]).astype(int)
    height, width = picture.shape[:2]
    left, top = width - 2 * 52 + 6, height - 2 * 52 + 6
    assert picture[top, left].sum() < picture[top, left + 52].sum() < 3 * 255
    assert picture[top + 52, left].sum() == 3 * 255


def test_another_file_is_scored_again_not_answered_from_the_first(tmp_path, capsys):
    file = write_medmnist(tmp_path / "spots.npz")
    assert run_teacher(file, tmp_path / "run", "--training.epochs=1", "--mode=both") == 0
    other = write_medmnist(tmp_path / "others.npz", {"train": (2, 2, 2), "val": (1, 1, 1), "test": (5, 5, 5)})
    assert run_teacher(other, tmp_path / "run", "--mode=test") == 0
    assert json.loads((tmp_path / "run" / "test.json").read_text())["cases"] == 15


def test_a_teacher_that_answers_in_another_order_is_refused(taught, tmp_path, capsys):
    teacher = checkpoints.load(taught.parent / "teacher" / "best.ckpt")
    rows = teacher["scores"]["cases"]
    certain = [row["target_probability"] for row in rows]
    for row, value in zip(rows, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], strict=True):
        row["target_probability"] = value
    shift = sum(certain) / len(certain)
    for row in rows:  # the same mean, other answers
        row["target_probability"] += shift - 0.5
    checkpoints.save(teacher, tmp_path / "teacher.ckpt")
    assert run_student(taught, tmp_path / "student", f"--teacher={tmp_path / 'teacher.ckpt'}") == 1
    assert "the median case is" in capsys.readouterr().err


def test_val_without_a_class_that_the_score_needs_is_refused_before_training(tmp_path, capsys):
    file = write_medmnist(tmp_path / "spots.npz", {"train": (8, 8), "val": (3, 0), "test": (2, 2)})
    section = '--metric={"name": "classification", "select": "partial_auc"}'
    assert run_teacher(file, tmp_path / "run", section) == 1
    assert "partial_auc cannot be taken over val, which holds 3 class 0, 0 class 1" in capsys.readouterr().err
