"""configs/methods for whole images: every recipe builds and runs, and the published ones compute their formulas."""

import pytest
import torch
import torch.nn.functional as F
from method_recipes import HDKD, ISIC, WHOLE_IMAGES, content, read, sides

from networks import NETWORKS
from utils.distillation.losses import TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, read_terms


def mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student - teacher).square().mean()


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """temperature^2 times the mean over images of KL(teacher || student)."""
    wanted = (teacher / temperature).softmax(1)
    gap = (teacher / temperature).log_softmax(1) - (student / temperature).log_softmax(1)
    return temperature**2 * (wanted * gap).sum(1).mean()


@pytest.mark.parametrize("name", WHOLE_IMAGES)
def test_a_method_for_whole_images_gives_every_student_feature_it_names_a_gradient(name):
    student, teacher, target = sides(name)
    _, terms = read(name)
    sum(weight * loss(student[tap], teacher[other], target) for loss, tap, other, weight in terms).backward()
    for _, tap, _, _ in terms:
        assert torch.isfinite(student[tap].grad).all()
        assert student[tap].grad.abs().sum() > 0


def total_of_images(name: str) -> tuple[torch.Tensor, dict, dict, torch.Tensor, list]:
    """The method's whole loss, its sides and target, and its losses (to look into their projectors)."""
    student, teacher, target = sides(name)
    recipe = content(name)
    task_loss, terms = read(name)
    value = recipe["task_weight"] * task_loss(student[recipe.get("task_loss", {}).get("on", "logits")], target)
    for loss, student_tap, teacher_tap, weight in terms:
        value = value + weight * loss(student[student_tap], teacher[teacher_tap], target)
    return value, student, teacher, target, [loss for loss, *_ in terms]


def test_hdkd_as_published_is_the_published_formula():
    value, s, t, target, _ = total_of_images("hdkd_as_published")
    divergence = kl(s["distillation_logits"], t["logits"], 1.0) / 3  # by images and classes
    stages = sum(number * mse(s[f"encoder{number}"], t[f"encoder{number}"]) for number in (1, 2, 3))
    expected = 0.5 * F.cross_entropy(s["class_logits"], target) + 0.5 * divergence + 10 * stages
    torch.testing.assert_close(value, expected)


def test_hdkd_differs_from_the_published_one_in_the_scale_and_hard_hdkd_in_the_first_term():
    ours, published, hard = (content(name) for name in HDKD)
    assert published["distillation"][0].pop("scale") == "element"
    assert ours == published
    assert hard["distillation"][0].pop("name") == "hard_target"
    assert hard["distillation"][1:] == ours["distillation"][1:]
    assert {key: hard[key] for key in ("network", "task_loss", "task_weight")} == {
        key: ours[key] for key in ("network", "task_loss", "task_weight")
    }


def test_response_is_the_published_formula():
    value, s, t, target, _ = total_of_images("response")
    expected = 0.6 * F.cross_entropy(s["logits"], target) + 0.4 * kl(s["logits"], t["logits"], 4.0)
    torch.testing.assert_close(value, expected)


def test_token_as_published_is_the_published_formula():
    value, s, t, target, losses = total_of_images("token_as_published")
    adapted = losses[1].projector(t["embedding"], 8)
    task = F.cross_entropy(s["logits"], target, weight=torch.tensor([0.02, 1.0]))
    distilled = 0.7 * kl(s["logits"], t["logits"], 3.0) + 0.3 * mse(s["embedding"], adapted)
    torch.testing.assert_close(value, 0.5 * task + 0.5 * distilled)


def test_feature_as_published_is_the_published_formula():
    value, s, t, target, losses = total_of_images("feature_as_published")
    adapt = [loss.projector for loss in losses]
    assert [str(projector) for projector in adapt] == ["learned 4 -> 8", "none", "learned 16 -> 8"]
    pairs = [
        (s["block4"][:, 1:].mean(1), adapt[0](t["encoder2"].mean((2, 3)), 8)),
        (s["block8"][:, 1:].mean(1), t["encoder3"].mean((2, 3))),
        (s["tokens"][:, 1:].mean(1), adapt[2](t["encoder4"].mean((2, 3)), 8)),
    ]
    task = F.cross_entropy(s["logits"], target, weight=torch.tensor([0.01, 1.0]))
    expected = 0.2 * task + 0.8 / 3 * sum(mse(*pair) for pair in pairs)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)  # the recipe has 0.2667


@pytest.mark.parametrize("name", ["feature", "token", "combined"])
def test_the_repaired_methods_of_isic_have_the_projector_on_the_students_side(name):
    ours, published = (content(method) for method in (name, f"{name}_as_published"))
    hints = [term for term in published["distillation"] if term["name"] == "hint"]
    assert {term.pop("projector_on") for term in hints} == {"teacher"}
    for term in hints:  # published: before the teacher's last normalization
        term["teacher"] = {"encoder4": "embedding"}.get(term["teacher"], term["teacher"])
    published.pop("task_loss")  # its class weights; ours are the data recipe's
    assert ours == published


def test_combined_is_the_weighted_sum_of_its_parts():
    parts = {name: content(name) for name in ("response", "feature", "token", "combined")}
    combined = parts.pop("combined")
    share = {"response": 0.6, "feature": 1.0, "token": 1.0}
    assert combined["task_weight"] == pytest.approx(sum(share[name] * parts[name]["task_weight"] for name in parts))
    for term in combined["distillation"]:
        same = [
            share[name] * part["weight"]
            for name in parts
            for part in parts[name]["distillation"]
            if (part["name"], part["student"], part["teacher"]) == (term["name"], term["student"], term["teacher"])
        ]
        assert term["weight"] == pytest.approx(sum(same))


@pytest.mark.parametrize("name", ["decoupled", "logit_standardization"])
def test_methods_that_two_classes_leave_nothing_to_distil_are_refused_there(name):
    [(loss, student_tap, teacher_tap, _)] = read(name)[1]
    student, teacher, target = sides("response")  # two classes
    with pytest.raises(ValueError, match="needs three classes"):
        loss(student[student_tap], teacher[teacher_tap], target)


def distilled(name: str, student: torch.nn.Module, teacher: torch.nn.Module, image: torch.Tensor) -> Distiller:
    """One forward and backward of the method on two networks."""
    recipe = content(name)
    on = recipe.get("task_loss", {}).get("on", "logits")
    task = Task(TASK_LOSSES["cross_entropy"](), on, recipe["task_weight"])
    distiller = Distiller(student, task, teacher, read_terms(recipe["distillation"]))
    losses = distiller(image, torch.tensor([0, 1]))
    assert len(losses) == 1 + len(recipe["distillation"])
    sum(distiller.weights[term] * loss for term, loss in losses.items()).backward()
    return distiller


@pytest.mark.parametrize("name", HDKD)
def test_a_method_of_hdkd_runs_on_its_networks(name):
    small = {"in_channels": 1, "num_classes": 2, "blocks": (1, 1, 1), "channels": (8, 8, 8)}
    student = NETWORKS["HDKD"](**small, image_size=32, dim=16, depth=1, heads=2)
    distilled(name, student, NETWORKS["teacher_model"](**small), torch.randn(2, 1, 32, 32))
    for layer in (student.class_head, student.distillation_head, student.stage1):
        assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize("name", ISIC)
def test_a_method_of_isic_runs_on_its_networks(name):
    student = NETWORKS["vit_s16"](image_size=32)
    teacher = NETWORKS["swinv2"](image_size=32, window_size=4, dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    distiller = distilled(name, student, teacher, torch.randn(2, 3, 32, 32))
    assert student.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in distiller.terms.parameters())
