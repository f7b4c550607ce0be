"""The methods beyond the published systems: a few steps of each, and self-distillation as train_kd.py runs it."""

import pytest
import torch
from method_recipes import THREE_CLASSES, content

from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms
from utils.experiment.run import main
from utils.experiment.teacher import trial
from utils.recipe.command_line import parse
from utils.recipe.schema import DistillationRecipe
from utils.training import checkpoints

NEW = ["attention_feature", "body_edge", "channel_wise", "cross_image", "dice_semimetric", "dist", "region_normalized"]
NEW += ["self_distillation", "vkd", "wavelet"]
SMALL = [
    '--network={"name": "unet", "widths": [4, 4, 4, 4, 4]}',
    "--data.task=all",
    "--data.crop=32",
    "--training.epochs=1",
    "--training.batch_size=4",
    "--training.precision=32-true",
]


def batch(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images: a square of each class, of other brightness; the second has no last class."""
    target = torch.zeros(2, 1, 64, 64, dtype=torch.int64)
    target[:, :, 10:42, 12:50] = 1
    target[0, :, 20:28, 20:30] = num_classes - 1
    image = target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    return image, target


@pytest.mark.parametrize(
    ("name", "num_classes"), [(name, number) for name in NEW for number in ((3,) if name in THREE_CLASSES else (2, 3))]
)
def test_a_few_steps_lower_the_whole_objective_and_every_term_is_finite(name, num_classes):
    torch.manual_seed(0)
    student, teacher = (
        NETWORKS["unet"](widths=widths, num_classes=num_classes) for widths in ((4, 4, 6, 6, 8), (6, 8, 8, 10, 12))
    )
    terms = read_terms(content(name)["distillation"], num_classes=num_classes)
    objective = Distiller(student, Task(TASK_LOSSES["dice_ce"]()), teacher, terms)
    image, target = batch(num_classes)
    trial(objective, image, target)
    objective.train()
    optimizer = torch.optim.Adam([value for value in objective.parameters() if value.requires_grad], lr=3e-3)
    totals = []
    for _ in range(6):
        losses = objective(image, target)
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        assert all(losses[term] > 0 for term in terms)
        total = sum(objective.weights[key] * loss for key, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.97 * totals[0]
    for key, value in objective.terms.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NEW)
def test_a_method_is_found_by_its_name(name):
    recipe = parse(DistillationRecipe, "test", ["--loss_type", name])
    assert recipe.distillation == content(name)["distillation"]


def test_two_classes_are_refused_by_dist_with_the_remedy():
    objective = Distiller(
        NETWORKS["unet"](widths=(4,) * 5),
        Task(TASK_LOSSES["dice_ce"]()),
        NETWORKS["unet"](widths=(4,) * 5),
        read_terms(content("dist")["distillation"]),
    )
    with pytest.raises(ValueError, match=r"dist/logits cannot be computed: dist needs three classes.*inter_weight: 0"):
        trial(objective, *batch(2))


def test_self_distillation_runs_without_a_teacher_and_others_do_not(slice_store, tmp_path, capsys):
    def run(method: str, *flags: str) -> int:
        arguments = ["--loss_type", method, f"--data.root={slice_store}", *SMALL, *flags]
        return main(parse(DistillationRecipe, "test", arguments))

    assert run("self_distillation", f"--output={tmp_path / 'self'}") == 0
    assert "teacher: none, every term learns from the student itself" in capsys.readouterr().out
    NETWORKS["unet"](widths=(4,) * 5, num_classes=3).load_state_dict(
        checkpoints.load(tmp_path / "self" / "best.ckpt")["weights"], strict=True
    )
    assert run("self_distillation", f"--output={tmp_path / 'self'}", "--training.epochs=2", "--resume") == 0
    assert run("hlfd", f"--output={tmp_path / 'hlfd'}") == 1
    assert "error: teacher: none given" in capsys.readouterr().err
