"""Runs on a tiny slice store: exact resume, honest checkpoints, guards."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets.slices.dataset import SliceDataset
from datasets.splits import split_sha256
from networks import NETWORKS
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe
from utils.training import checkpoints
from utils.training.term_watch import TermWatch

TEACHER = [
    f"--config={ROOT / 'configs/kits19_teacher.yaml'}",
    '--network={"name": "unet", "widths": [4, 4, 6, 6, 8]}',
    '--data.augment=["flip", "rot90", "affine", "intensity"]',
    "--data.crop=32",
    "--training.batch_size=4",
    "--training.epochs=2",
    "--training.precision=32-true",
    "--training.log_every=2",
]
# Dropout, a learned and a random projector: everything that draws random numbers or learns beside the network.
STUDENT = [
    *TEACHER,
    f"--config={ROOT / 'configs/methods/hlfd_as_published.yaml'}",
    '--network={"name": "enet"}',
    "--training.share_every=3",
]


def run_teacher(store, output, *flags) -> int:
    return main(parse(Recipe, "test", [*TEACHER, f"--data.root={store}", f"--output={output}", *flags]))


def student_arguments(store, output, *flags) -> list[str]:
    teacher = Path(store).parent / "teacher" / "best.ckpt"
    return [*STUDENT, f"--data.root={store}", f"--output={output}", f"--teacher={teacher}", *flags]


def run_student(store, output, *flags) -> int:
    return main(parse(DistillationRecipe, "test", student_arguments(store, output, *flags)))


@pytest.fixture
def taught(slice_store, tmp_path):
    """A slice store with a trained teacher beside it, in `teacher/`."""
    assert run_teacher(slice_store, slice_store.parent / "teacher") == 0
    return slice_store


def weights(output) -> dict[str, torch.Tensor]:
    return checkpoints.load(Path(output) / "last.ckpt")["weights"]


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_uninterrupted(taught, tmp_path):
    assert run_student(taught, tmp_path / "whole") == 0
    # 18 slices in batches of 4: four steps an epoch; sample 26 is in the third step of the second epoch.
    driver = (
        "import os, signal, sys\n"
        "from datasets.slices.dataset import SliceDataset\n"
        "read, count = SliceDataset.__getitem__, [0]\n"
        "def read_or_die(self, index):\n"
        "    if self.split == 'train' and self.epoch == 1:\n"
        "        count[0] += 1\n"
        "        if count[0] == 10:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(self, index)\n"
        "SliceDataset.__getitem__ = read_or_die\n"
        "from utils.recipe.command_line import parse\n"
        "from utils.recipe.schema import DistillationRecipe\n"
        "from utils.experiment.run import main\n"
        "sys.exit(main(parse(DistillationRecipe, 'test')))\n"
    )
    arguments = student_arguments(taught, tmp_path / "killed")
    killed = subprocess.run([sys.executable, "-c", driver, *arguments], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert checkpoints.load(tmp_path / "killed" / "last.ckpt")["epoch"] == 1
    assert run_student(taught, tmp_path / "killed", "--resume") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    assert (tmp_path / "whole/history.csv").read_text() == (tmp_path / "killed/history.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_the_epoch_and_resume_is_exact(taught, tmp_path, monkeypatch, capsys, number):
    assert run_student(taught, tmp_path / "whole") == 0
    read, count = SliceDataset.__getitem__, [0]

    def read_and_signal(self, index):
        if self.split == "train" and self.epoch == 1:
            count[0] += 1
            if count[0] == 6:
                os.kill(os.getpid(), number)
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(SliceDataset, "__getitem__", read_and_signal)
        assert run_student(taught, tmp_path / "stopped") == 128 + number
    assert "continue with --resume" in capsys.readouterr().out
    training = checkpoints.load(tmp_path / "stopped" / "last.ckpt")["training"]
    assert (training["progress"]["epoch"], training["progress"]["position"]) == (1, 2)
    assert run_student(taught, tmp_path / "stopped", "--resume") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(slice_store, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run_teacher(slice_store, tmp_path / name, f"--seed={seed}", "--training.workers=0") == 0
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(weights(tmp_path / "a")["head.weight"], weights(tmp_path / "c")["head.weight"])


def test_loader_processes_change_nothing(slice_store, tmp_path):
    assert run_teacher(slice_store, tmp_path / "none", "--training.epochs=1") == 0
    assert run_teacher(slice_store, tmp_path / "two", "--training.epochs=1", "--training.workers=2") == 0
    assert_same_weights(tmp_path / "none", tmp_path / "two")


def test_one_step_updates_batch_statistics_once_though_shares_are_measured(taught, tmp_path):
    assert run_student(taught, tmp_path / "run", "--training.epochs=1", "--training.share_every=1") == 0
    tracked = [value for name, value in weights(tmp_path / "run").items() if name.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(value) == 4 for value in tracked)  # 18 slices, batches of 4: four steps


def test_the_loop_minimizes_weighted_terms(taught, tmp_path):
    term = '{{"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": {}}}'
    for weight in (1, 3):
        flags = ["--training.epochs=1", f"--distillation=[{term.format(weight)}]", "--training.optimizer=sgd"]
        assert run_student(taught, tmp_path / str(weight), *flags) == 0
    assert not torch.equal(weights(tmp_path / "1")["head.weight"], weights(tmp_path / "3")["head.weight"])


def test_the_students_checkpoint_holds_a_bare_student_and_rebuilds_it(taught, tmp_path):
    assert run_student(taught, tmp_path / "run") == 0
    checkpoint = checkpoints.load(tmp_path / "run" / "best.ckpt")
    NETWORKS["enet"](num_classes=2).load_state_dict(checkpoint["weights"], strict=True)
    assert "training" not in checkpoint
    network = checkpoints.rebuild(checkpoint)
    assert not network.training
    assert checkpoint["preprocessing"]["window"] == [-200.0, 300.0]
    assert checkpoint["split"]["train"] == ["case_00000", "case_00001", "case_00002"]
    assert {row["case"] for row in checkpoint["scores"]["cases"]} == {"case_00003"}


def test_tensorboard_holds_terms_shares_scores_and_pictures(taught, tmp_path):
    assert run_student(taught, tmp_path / "run") == 0
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for tag in ("train/loss", "train/learning_rate", "train/images_per_second", "val/dice", "val/dice/tumor"):
        assert tag in tags
    assert "val/published/dice/tumor" in tags
    for term in ("task", "unified_attention/encoder1"):
        assert {f"terms/{term}", f"weighted/{term}", f"gradient_share/{term}"} <= tags
    shares = [events.Scalars(tag)[0].value for tag in tags if tag.startswith("gradient_share/")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert len(events.Images("val/image, target, prediction, difference")) == 2


def test_the_test_split_is_read_once(taught, tmp_path, monkeypatch, capsys):
    assert run_student(taught, tmp_path / "run", "--mode=both") == 0
    scores = json.loads((tmp_path / "run/test.json").read_text())
    assert {row["case"] for row in scores["rows"]} == {"case_00004", "case_00005"}
    assert scores["scores"]["cases_without/tumor"] == 1
    monkeypatch.setattr("utils.experiment.test.evaluate", lambda *_, **__: pytest.fail("the test split was read twice"))
    assert run_student(taught, tmp_path / "run", "--mode=test") == 0
    assert "dice/tumor" in capsys.readouterr().out


def test_a_finished_run_is_not_overwritten(slice_store, tmp_path, capsys):
    assert run_teacher(slice_store, tmp_path / "run", "--training.epochs=1") == 0
    before = (tmp_path / "run/last.ckpt").read_bytes()
    assert run_teacher(slice_store, tmp_path / "run", "--training.epochs=1") == 1
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "run/last.ckpt").read_bytes() == before


def test_a_resume_may_lengthen_a_run_but_not_change_it(slice_store, tmp_path, capsys):
    assert run_teacher(slice_store, tmp_path / "run", "--training.epochs=1") == 0
    assert run_teacher(slice_store, tmp_path / "run", "--resume", "--lr=0.5") == 1
    assert "training.learning_rate" in capsys.readouterr().err
    assert run_teacher(slice_store, tmp_path / "run", "--resume", "--training.epochs=2") == 0
    assert checkpoints.load(tmp_path / "run/last.ckpt")["epoch"] == 2


def test_a_teacher_that_saw_the_students_patients_is_refused(taught, tmp_path, capsys):
    split = json.loads((taught / "split.json").read_text())
    split["train"], split["test"] = ["case_00004", "case_00005"], ["case_00000", "case_00001", "case_00002"]
    (taught / "split.json").write_text(json.dumps(split))
    manifest = json.loads((taught / "dataset.json").read_text())
    (taught / "dataset.json").write_text(json.dumps(manifest | {"split_sha256": split_sha256(split)}))
    index = (taught / "index.csv").read_text().splitlines()
    swapped = [line.replace(",train,", ",X,").replace(",test,", ",train,").replace(",X,", ",test,") for line in index]
    (taught / "index.csv").write_text("\n".join(swapped) + "\n")
    assert run_student(taught, tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "case_00000" in message
    assert "--allow_leak" in message
    assert run_student(taught, tmp_path / "run", "--allow_leak") == 0


def test_a_teacher_whose_weights_are_not_those_it_was_scored_with_is_refused(taught, tmp_path, capsys):
    file = taught.parent / "teacher" / "best.ckpt"
    checkpoint = checkpoints.load(file)
    for row in checkpoint["scores"]["cases"]:
        row["dice"] = abs(row["dice"] - 0.5)
    checkpoints.save(checkpoint, file)
    assert run_student(taught, tmp_path / "run") == 1
    assert "its checkpoint says" in capsys.readouterr().err


def test_a_teacher_of_other_images_is_refused(taught, tmp_path, capsys):
    assert run_student(taught, tmp_path / "run", "--data.window=[-100,100]") == 1
    assert "window" in capsys.readouterr().err
    assert run_student(taught, tmp_path / "run", "--data.task=organ") == 1
    assert "task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--teacher=nowhere/best.ckpt", "no such checkpoint"),
        ("--teacher=", "give its --teacher"),
        ("--metric.name=volume_dise", "did you mean 'volume_dice'"),
        ("--task_loss.name=dice_focl", "did you mean 'dice_focal'"),
        ("--data.root=nowhere", "SliceMaker"),
        ('--distillation=[{"name": "hint", "student": "logits", "teacher": "logits"}]', "has no weight"),
        ('--distillation=[{"name": "hint", "student": "encodr1", "teacher": "logits", "weight": 1}]', "did you mean"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(taught, tmp_path, capsys, flag, message):
    assert run_student(taught, tmp_path / "run", flag) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "run").exists()


def test_a_broken_checkpoint_is_named(tmp_path):
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"best\.ckpt: cannot be read"):
        checkpoints.load(file)


def test_a_term_that_is_not_finite_is_named_with_its_step():
    watch = TermWatch({"task": 1.0, "hint/encoder1": 2.0}, [])
    watch.add({"task": torch.tensor(1.0), "hint/encoder1": torch.tensor(2.0)}, 4, 0, ["a"])
    watch.add({"task": torch.tensor(1.0), "hint/encoder1": torch.tensor(float("nan"))}, 4, 1, ["b"])
    watch.add({"task": torch.tensor(float("nan")), "hint/encoder1": torch.tensor(float("nan"))}, 4, 2, ["c"])
    with pytest.raises(ValueError, match=r"step 1: hint/encoder1 \(cases b\)"):
        watch.report()


def test_the_report_weighs_terms():
    watch = TermWatch({"task": 1.0, "hint/encoder1": 2.0}, [])
    watch.add({"task": torch.tensor(1.0), "hint/encoder1": torch.tensor(3.0)}, 4, 0, ["a"])
    watch.add({"task": torch.tensor(2.0), "hint/encoder1": torch.tensor(5.0)}, 4, 1, ["a"])
    report = watch.report()
    assert report["terms/hint/encoder1"] == 4.0  # (3 + 5) / 2
    assert report["weighted/hint/encoder1"] == 8.0
    assert report["train/loss"] == 9.5  # 1.5 + 8


@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        ("-c", "from lightning_fabric.cli import _main; _main()", "run", "--devices=2", "--accelerator=cpu"),
    ],
    ids=["torchrun", "fabric run"],
)
def test_two_processes_train_and_score_every_case(slice_store, tmp_path, launcher):
    command = [
        *(sys.executable, *launcher, "train.py", *TEACHER),
        *(
            f"--data.root={slice_store}",
            f"--output={tmp_path / 'run'}",
            "--training.accelerator=cpu",
            "--mode=both",
            "--training.checkpoint_minutes=0",
        ),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    scores = json.loads((tmp_path / "run/test.json").read_text())
    assert {row["case"] for row in scores["rows"]} == {"case_00004", "case_00005"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu(slice_store, tmp_path):
    assert run_teacher(slice_store, tmp_path / "run", "--training.accelerator=cuda", "--training.precision=auto") == 0
