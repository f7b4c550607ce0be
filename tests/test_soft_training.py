"""Students that learn from soft maps: what is refused and printed before the first step, and what shapes weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from soft_map_folders import write_maps
from tiny_runs import TEACHER, assert_same_weights, refused, tiny, weights

from datasets.slices.store import read_index, read_slice
from utils.experiment.prepare import prepare
from utils.experiment.run import main
from utils.experiment.soft_check import check_soft_teacher
from utils.recipe.command_line import parse
from utils.recipe.schema import DistillationRecipe
from utils.training import checkpoints

__all__ = ["tiny"]  # a fixture

FLAGS = [
    *TEACHER,
    '--network={"name": "tiny", "dropout": 0.2}',
    "--loss_type=hinton",
    "--training.share_every=3",
    "--training.epochs=1",
]
SEEN = {"train": ["case_00000", "case_00001"], "val": ["case_00002"]}


def soft(store, sure=0.9):
    """Probabilities of kidney and tumor by case: so much where the label is, half of the rest elsewhere."""
    labels = {}
    for record in read_index(store):
        labels.setdefault(record.case, []).append(read_slice(record.path)[1])
    stacks = {case: np.stack(each)[:, None] for case, each in labels.items()}
    return {
        case: np.where(stack == np.array([1, 2])[:, None, None], sure, (1 - sure) / 2) for case, stack in stacks.items()
    }


@pytest.fixture
def maps(slice_store, tmp_path):
    return write_maps(tmp_path / "maps", slice_store, soft(slice_store), ["kidney", "tumor"], SEEN)


def run(store, maps, output, *flags):
    given = [*FLAGS, f"--data.root={store}", f"--output={output}", f"--teacher.maps={maps}", *flags]
    return main(parse(DistillationRecipe, "test", given))


def test_a_student_learns_from_maps_and_its_checkpoint_knows_them(slice_store, maps, tmp_path, capsys):
    assert run(slice_store, maps, tmp_path / "run", "--mode=both") == 0
    printed = capsys.readouterr().out
    assert "teacher: soft maps" in printed and "(license: CC BY 4.0)" in printed
    assert "WARNING" not in printed
    assert "kidney   background" in printed and "tumor    tumor" in printed
    assert "teacher: mean dice of the soft maps on 1 of 1 val cases: tumor 1.0000" in printed
    assert "logits 2x32x32" in printed.split("soft_target/logits")[1].splitlines()[0]
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["recipe"]["teacher"] == {"maps": str(maps)}
    assert f"# The soft maps of the training cases: SHA-256 {checkpoint['teacher_sha256']}\n" in (
        (tmp_path / "run/config.yaml").read_text()
    )
    other = write_maps(tmp_path / "other", slice_store, soft(slice_store, 0.6), ["kidney", "tumor"], SEEN)
    assert run(slice_store, other, tmp_path / "unsure") == 0
    assert checkpoints.load(tmp_path / "unsure")["teacher_sha256"] != checkpoint["teacher_sha256"]
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "unsure")
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_parts_shares_and_workers_read_the_answers_of_their_images(slice_store, maps, tmp_path):
    flags = ("--training.accumulate=2", "--training.share_every=1", "--distillation_share=2", "--data.labeled=0.6")
    assert run(slice_store, maps, tmp_path / "here", *flags) == 0
    assert run(slice_store, maps, tmp_path / "there", *flags, "--training.workers=2", "--data.cache=false") == 0
    assert_same_weights(tmp_path / "here", tmp_path / "there")
    remark = (tmp_path / "here/config.yaml").read_text().splitlines()[:2]
    assert "distillation_share 2" in remark[0] and "# The soft maps" in remark[1]


def test_a_run_goes_on_with_the_same_maps_only(slice_store, maps, tmp_path, capsys):
    assert run(slice_store, maps, tmp_path / "whole", "--training.epochs=2", "--training.schedule=constant") == 0
    assert run(slice_store, maps, tmp_path / "run", "--training.schedule=constant") == 0
    moved = shutil.copytree(maps, tmp_path / "moved")
    again = ("--training.epochs=2", "--training.schedule=constant", "--resume")
    shutil.copytree(tmp_path / "run", tmp_path / "second")
    assert run(slice_store, moved, tmp_path / "run", *again) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(moved)
    write_maps(moved, slice_store, soft(slice_store, 0.8), ["kidney", "tumor"], SEEN)
    capsys.readouterr()
    assert run(slice_store, moved, tmp_path / "second", *again) == 1
    assert f"its soft maps {maps} has changed since the run began" in refused(capsys)


@pytest.mark.parametrize("flags", [(), ("--task_loss=null",)])
def test_val_maps_are_of_the_teachers_hash_where_they_select(slice_store, maps, tmp_path, flags):
    def sha256():
        given = [*FLAGS, f"--data.root={slice_store}", f"--output={tmp_path}/run", f"--teacher.maps={maps}", *flags]
        return prepare(parse(DistillationRecipe, "test", given)).teacher_sha256

    before = sha256()
    for suffix in ("npy", "json"):
        (maps / f"case_00003.{suffix}").unlink()
    write_maps(maps, slice_store, {"case_00003": np.zeros((6, 2, 40, 48))}, ["kidney", "tumor"], SEEN)
    assert (sha256() == before) is not bool(flags)


def test_maps_that_do_not_show_a_class_of_val_are_warned_of(slice_store, tmp_path, capsys):
    flipped = {case: answer[..., ::-1, :] for case, answer in soft(slice_store).items()}
    maps = write_maps(tmp_path / "flipped", slice_store, flipped, ["kidney", "tumor"], SEEN)
    given = [*FLAGS, f"--data.root={slice_store}", f"--output={tmp_path}/run", f"--teacher.maps={maps}"]
    check_soft_teacher(prepare(parse(DistillationRecipe, "test", given)))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("WARNING: the soft maps do not show tumor: their mean dice is 0.0")


def test_who_saw_the_students_patients_may_not_teach(slice_store, maps, tmp_path, capsys):
    def seen_by(patients):
        shutil.rmtree(maps)
        return write_maps(maps, slice_store, soft(slice_store), ["kidney", "tumor"], patients)

    for patients, message in (
        (
            {"train": ["case_00003"], "val": []},
            "teacher 0's train patients include 1 of the student's val patients",
        ),
        ({"train": [], "val": ["case_00004"]}, "teacher 0's val patients include 1 of the student's test patients"),
    ):
        assert run(slice_store, seen_by(patients), tmp_path / "run") == 1
        assert message in refused(capsys)

    content = json.loads((maps / "maps.json").read_text())
    (maps / "maps.json").write_text(json.dumps(content | {"patients": {"0": None}}))
    assert run(slice_store, maps, tmp_path / "run") == 1
    assert "whom its teacher 0 was trained on is not known; give --allow_leak" in refused(capsys)
    assert run(slice_store, maps, tmp_path / "run", "--allow_leak") == 0


def test_a_class_that_neither_teacher_nor_labels_show_is_refused(slice_store, tmp_path, capsys):
    kidney = {case: answer[:, :1] for case, answer in soft(slice_store).items()}
    maps = write_maps(tmp_path / "kidney", slice_store, kidney, ["kidney"], SEEN)
    for flag in ("--data.labeled=0.5", "--task_loss=null"):
        assert run(slice_store, maps, tmp_path / "run", "--data.task=all", flag) == 1
        assert "its teacher has no tumor, and" in refused(capsys)


def test_what_maps_cannot_do_is_refused_before_any_work(slice_store, maps, tmp_path, capsys):
    for flags, message in (
        (["--loss_type=emkd"], "the term attention_transfer/encoder1 reads the teacher's encoder1, and soft maps hold"),
        ([f"--teacher_cache={tmp_path}"], "teacher_cache: soft maps hold the teacher's answers already"),
        (["--teacher.clases={}"], "teacher: has no key 'clases'"),
        (["--teacher.classes={liver: tumor}"], "teacher.classes: the teacher has no 'liver'"),
        ([f"--teacher.maps={slice_store}"], "is no folder of soft maps"),
        (["--data.maps=x"], "data.maps: soft maps are a teacher"),
        (["--data.name=medmnist"], "soft maps are of slices, not of medmnist"),
    ):
        try:
            assert run(slice_store, maps, tmp_path / "run", *flags) == 1
        except SystemExit as end:
            assert end.code == 2
        assert message in refused(capsys)
    assert not (tmp_path / "run").exists()
