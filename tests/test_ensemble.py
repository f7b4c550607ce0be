"""Several teachers: the mean of their probabilities, their taps by name, and guards that hold for each."""

import json
import shutil

import pytest
import torch
from test_teachers import score_otherwise
from tiny_runs import TEACHER, copied, refused, taught, tiny, weights
from torch import nn

from utils.distillation.ensemble import Ensemble, teacher_weights
from utils.distillation.taps import tap
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import DistillationRecipe
from utils.training import checkpoints

__all__ = ["copied", "taught", "tiny"]  # fixtures

CLASSES = ["kidney", "tumor"]


class Fixed(nn.Module):
    """Answers each pixel with the same probabilities, and knows how many channels it was given."""

    def __init__(self, *probabilities):
        super().__init__()
        self.block, self.answer, self.taps = nn.Identity(), torch.tensor(probabilities), {"encoder1": "block"}

    def forward(self, image):
        self.block(image)
        return self.answer.log()[None, :, None, None].expand(len(image), -1, *image.shape[2:]) + 3


def mean_of(*sections):
    networks = {"big": Fixed(0.2, 0.2, 0.6), "small": Fixed(0.6, 0.3, 0.1)}
    sections = [{"name": name, **section} for name, section in zip(networks, sections, strict=True)]
    return Ensemble(networks, teacher_weights(sections, CLASSES, 3), [3, 1])


def test_the_answer_is_the_mean_of_probabilities():
    image = torch.randn(2, 3, 4, 4)
    for sections, wanted in (
        (({}, {}), [0.4, 0.25, 0.35]),
        (({"weight": 3}, {"weight": 1}), [0.3, 0.225, 0.475]),
        (({"weight": 0}, {}), [0.6, 0.3, 0.1]),
        # means 0.4, 0.25, 0.6, divided by their sum
        (({}, {"weight": {"tumor": 0}}), [0.32, 0.2, 0.48]),
    ):
        answer = mean_of(*sections)(image).exp()
        assert answer.shape == (2, 3, 4, 4)
        assert answer[1, :, 2, 3].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_sure_teacher_gives_no_infinite_logit():
    ensemble = Ensemble({"sure": Fixed(1.0, 0.0, 0.0)}, torch.ones(1, 3), [1])
    ensemble.networks["sure"].answer = torch.tensor([1.0, 1e-30, 1e-38])
    assert ensemble(torch.zeros(1, 1, 2, 2)).isfinite().all()


def test_taps_are_named_by_their_teacher_and_each_sees_its_channels():
    image = torch.randn(2, 3, 4, 4)
    features = tap(mean_of({}, {}), image, ["big/encoder1", "small/encoder1", "small/logits", "logits"])
    assert torch.equal(features["big/encoder1"], image) and torch.equal(features["small/encoder1"], image[:, 1:2])
    assert features["small/logits"].softmax(1)[0, :, 0, 0].tolist() == pytest.approx([0.6, 0.3, 0.1])
    with pytest.raises(ValueError, match="Ensemble has no tap 'encoder1'; did you mean 'big/encoder1'"):
        tap(mean_of({}, {}), image, ["encoder1"])


def test_weights_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="big: weight has no class 'liver'"):
        teacher_weights([{"name": "big", "weight": {"liver": 1}}], CLASSES, 3)
    with pytest.raises(ValueError, match="teachers: none has a weight for tumor"):
        teacher_weights([{"name": "big", "weight": {"tumor": 0}}], CLASSES, 3)
    assert teacher_weights([{"name": "one", "weight": {"b": 0}}, {"name": "two"}], ["a", "b"], 2).tolist() == [
        [1, 0],
        [1, 1],
    ]


def run(store, output, teachers, *flags):
    given = [*TEACHER, '--network={"name": "tiny"}', "--training.epochs=1", f"--data.root={store}"]
    teaching = [f"--teachers={json.dumps(teachers)}"] if isinstance(teachers, list) else [f"--teacher={teachers}"]
    return main(parse(DistillationRecipe, "test", [*given, f"--output={output}", *teaching, *flags]))


def test_twice_the_same_teacher_teaches_as_once(taught, tmp_path, capsys):
    teacher = str(taught.parent / "teacher/best.ckpt")
    both = [{"name": "big", "path": teacher}, {"name": "small", "path": teacher, "weight": 2}]
    assert run(taught, tmp_path / "once", teacher, "--loss_type=hinton") == 0
    capsys.readouterr()
    assert run(taught, tmp_path / "twice", both, "--loss_type=hinton") == 0
    printed = capsys.readouterr().out
    assert "big: teacher: scored again on case_00003" in printed and "small: teacher: scored again" in printed
    once, twice = weights(tmp_path / "once"), weights(tmp_path / "twice")
    for name in once:
        torch.testing.assert_close(twice[name], once[name], rtol=1e-3, atol=1e-4)
    hashes = [checkpoints.load(tmp_path / name)["teacher_sha256"] for name in ("once", "twice")]
    assert len(set(hashes)) == 2 and all(len(each) == 64 for each in hashes)
    terms = [{"name": "hint", "student": "encoder2", "teacher": "small/encoder2", "weight": 0.5, "projector": "random"}]
    flags = (f"--distillation={json.dumps(terms)}", '--data.augment=["flip"]', f"--teacher_cache={tmp_path / 'cache'}")
    assert run(taught, tmp_path / "named", both, *flags) == 0
    assert "small/encoder2 4x16x16" in capsys.readouterr().out


def test_each_teacher_is_checked(copied, tmp_path, capsys):
    teacher = copied.parent / "teacher/best.ckpt"
    other = shutil.copytree(teacher.parent, tmp_path / "other") / "best.ckpt"
    score_otherwise(other)
    both = [{"name": "big", "path": str(teacher)}, {"name": "small", "path": str(other)}]
    assert run(copied, tmp_path / "run", both, "--loss_type=hinton") == 1
    assert f"{other}: scores" in refused(capsys)


@pytest.mark.parametrize(
    ("teachers", "flags", "message"),
    [
        ([{"name": "big"}], (), "teachers[1]: has the keys name: give"),
        ([{"name": "a", "path": "x"}, {"name": "a", "path": "y"}], (), "teachers[1]: name 'a': give a name"),
        ([{"name": "big/one", "path": "x"}], (), "teachers[1]: name 'big/one'"),
        ([{"name": "a", "path": "x", "weight": -1}], (), "teachers[1]: weight -1 is not a number"),
        ([{"name": "a", "path": "x"}], ("--teacher=y",), "teacher and teachers are both given"),
        ([{"name": "a", "path": "x"}], ("--teacher.maps=y",), "teacher and teachers are both given"),
        ([{"name": "a", "path": "x"}], ("--task_loss=null",), "teachers: a student agrees with one teacher"),
    ],
)
def test_teachers_that_cannot_be_meant_are_refused(tmp_path, capsys, teachers, flags, message):
    with pytest.raises(SystemExit):
        run(tmp_path, tmp_path / "run", teachers, *flags, "--loss_type=hinton")
    assert message in refused(capsys)
