"""configs/methods: every recipe builds and runs, and the published ones compute the published formulas."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from scripts.benchmark_kd_step import published_loss, published_task_loss
from utils.losses import DISTILLATION_LOSSES, TASK_LOSSES

METHODS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs" / "methods").glob("*.yaml"))}
HDKD = ["hdkd", "hdkd_as_published", "hdkd_hard"]
ISIC = ["combined", "feature", "response", "token"]
ISIC += [f"{name}_as_published" for name in ISIC if name != "response"]
LOGITS = ["decoupled", "logit_standardization", "skin_lesion"]
WHOLE_IMAGES = [*HDKD, *ISIC, *LOGITS]
MASKS = [name for name in METHODS if name not in WHOLE_IMAGES]

STUDENT_TAPS = {"encoder1", "encoder2", "encoder3", "encoder4", "bottleneck", "logits"}  # what every network has
TEACHER_TAPS = STUDENT_TAPS | {"decoder1", "decoder2", "decoder3", "decoder4"}
# channels and side of each tap, for a 64x64 image
STUDENT = {"encoder1": (8, 32), "encoder2": (8, 16), "encoder3": (12, 8), "encoder4": (16, 4), "bottleneck": (20, 2)}
TEACHER = {**STUDENT, "encoder2": (10, 16), "bottleneck": (24, 2), "decoder4": (16, 4), "decoder3": (12, 8)}
TEACHER |= {"decoder2": (8, 16), "decoder1": (8, 32)}

STAGES = {"encoder1": (4, 8, 8), "encoder2": (6, 4, 4), "encoder3": (8, 2, 2)}  # HDKD: equal on both sides
VIT = {"block4": (10, 8), "block8": (10, 8), "embedding": (8,)}  # a class token and 3x3 patches
SWIN = {"encoder2": (4, 6, 6), "encoder3": (8, 3, 3), "encoder4": (16, 3, 3), "embedding": (16,)}


def features(shapes: dict[str, tuple[int, int]], seed: int, num_classes: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes | {"logits": (num_classes, 64)}
    return {name: torch.randn(2, c, size, size, generator=generator).relu() for name, (c, size) in shapes.items()}


def labels(num_classes: int) -> torch.Tensor:
    target = torch.zeros(2, 1, 64, 64, dtype=torch.int64)
    target[:, :, 8:40, 16:48] = 1
    target[:, :, 16:32, 16:32] = num_classes - 1
    return target


def read(name: str) -> tuple[torch.nn.Module, list[tuple]]:
    """The task loss, and (loss, student taps, teacher taps, weight) for each entry."""
    recipe = yaml.safe_load(METHODS[name].read_text())
    assert recipe.keys() <= {"network", "task_loss", "task_weight", "distillation"}
    task = recipe.get("task_loss", {"name": "cross_entropy" if name in WHOLE_IMAGES else "dice_focal"})
    task.pop("on", None)
    terms = []
    for entry in recipe["distillation"]:
        places = [entry.pop(key) for key in ("student", "teacher", "weight")]
        terms.append((DISTILLATION_LOSSES[entry.pop("name")](**entry), *places))
    return TASK_LOSSES[task.pop("name")](**task), terms


def total(name: str, student: dict, teacher: dict, target: torch.Tensor) -> torch.Tensor:
    task_loss, terms = read(name)
    value = task_loss(student["logits"], target)
    for loss, student_taps, teacher_taps, weight in terms:
        value = value + weight * loss(pick(student, student_taps), pick(teacher, teacher_taps), target)
    return value


def pick(side: dict, taps: str | list[str]):
    return side[taps] if isinstance(taps, str) else [side[tap] for tap in taps]


def test_the_published_loss_types_and_the_methods_are_there():
    published = {"attn_kd", "deep_kd", "indv_feedback", "wo_feedback", "cat_feedback_ours", "recursive_feedback_ours"}
    ours = {"emkd", "hlfd", "hlfd_as_published", "skd_pi", "skd_pi_pa", "skd_pi_pa_ho", "hinton", "unet_tutorial"}
    assert published | ours <= METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_explains_itself(name):
    first, *rest = METHODS[name].read_text().splitlines()
    assert first.startswith("# ")
    assert any(f"--loss_type {name} " in line for line in rest)
    assert all(weight > 0 for *_, weight in read(name)[1])


@pytest.mark.parametrize("name", MASKS)
def test_a_method_for_masks_asks_for_taps_that_every_network_has(name):
    for _, student_taps, teacher_taps, _ in read(name)[1]:
        assert {student_taps} <= STUDENT_TAPS if isinstance(student_taps, str) else set(student_taps) <= STUDENT_TAPS
        assert {teacher_taps} <= TEACHER_TAPS if isinstance(teacher_taps, str) else set(teacher_taps) <= TEACHER_TAPS


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", MASKS)
def test_a_method_gives_every_student_feature_it_names_a_gradient(name, num_classes):
    student = {tap: value.requires_grad_() for tap, value in features(STUDENT, 0, num_classes).items()}
    total(name, student, features(TEACHER, 1, num_classes), labels(num_classes)).backward()
    for _, taps, _, _ in read(name)[1]:
        for tap in [taps] if isinstance(taps, str) else taps:
            assert torch.isfinite(student[tap].grad).all()
            assert student[tap].grad.abs().sum() > 0


def test_emkd_as_published_is_the_published_formula_with_its_gradient():
    target = labels(2)
    one_hot = torch.cat([target == 0, target == 1], 1).float()
    student = {tap: value.requires_grad_() for tap, value in features(STUDENT, 0, 2).items()}
    teacher = features(TEACHER, 1, 2)
    ours, published = total("emkd_as_published", student, teacher, target), published_loss(student, teacher, one_hot)
    torch.testing.assert_close(ours, published)
    inputs = [student[tap] for tap in ("logits", "encoder1", "encoder3")]
    for gradient, expected in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(published, inputs), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_hlfd_as_published_is_the_published_formula():
    def resize(feature, like):
        return F.interpolate(feature, like.shape[2:], mode="bilinear")

    def divergence(student, teacher):  # two columns, whatever the channels
        log_student, probability = F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1)
        return 16 * F.kl_div(log_student.reshape(-1, 2), probability.reshape(-1, 2), reduction="batchmean")

    def at(feature):
        return F.normalize(feature.pow(4).mean(1).flatten(1))

    def distance(student, teacher):
        return (at(student) - at(teacher)).pow(2).sum(1).mean()

    def join(side, taps, like):  # each averaged down to the last, the smallest
        return torch.cat([F.avg_pool2d(side[tap], side[tap].shape[2] // like.shape[2]) for tap in taps], 1)

    target = labels(2)
    s, t = features(STUDENT, 0, 2), features(TEACHER, 1, 2)
    task_loss, terms = read("hlfd_as_published")
    value = task_loss(s["logits"], target)
    drawn = []  # the random convolution of each soft-target term, before it is used
    for loss, student_taps, teacher_taps, weight in terms:
        projector = getattr(loss, "projector", None)
        if projector is not None:
            state = projector.next_seed.clone()
            sides = (
                (join(t, teacher_taps, t["decoder4"]), 16) if isinstance(teacher_taps, list) else (s[student_taps], 2)
            )
            drawn.append(projector(*sides))
            projector.next_seed.copy_(state)
        value = value + weight * loss(pick(s, student_taps), pick(t, teacher_taps), target)

    pixel = 0.5 * divergence(s["encoder4"], resize(drawn[0], s["encoder4"]))
    pixel = pixel + 0.5 * sum(divergence(resize(projected, t["logits"]), t["logits"]) for projected in drawn[1:])
    joined = join(t, ["encoder2", "encoder3", "encoder4"], t["encoder4"])
    feature = 0.5 * distance(s["encoder1"], resize(joined, s["encoder1"]))
    feature = feature + 0.5 * sum(
        distance(resize(s[tap], t["bottleneck"]), t["bottleneck"]) for tap in ("encoder2", "encoder3", "encoder4")
    )
    one_hot = torch.cat([target == 0, target == 1], 1).float()
    expected = published_task_loss(s["logits"], one_hot) + 0.1 * pixel + 0.9 * feature
    torch.testing.assert_close(value, expected)


def test_two_names_of_hlfd_as_published_stay_one():
    texts = (METHODS[name].read_text() for name in ("hlfd_as_published", "recursive_feedback_ours"))
    first, second = (yaml.safe_load(text) for text in texts)
    assert first == second


def test_repaired_hlfd_is_the_published_branch_with_learned_projectors_and_the_missing_terms():
    repaired, published = (yaml.safe_load(METHODS[name].read_text()) for name in ("hlfd", "hlfd_as_published"))
    missing, rest = repaired["distillation"][:2], repaired["distillation"][2:]
    assert [(term["student"], term["teacher"], term["weight"]) for term in missing] == [
        ("logits", "logits", 0.1),
        ("bottleneck", "bottleneck", 0.9),
    ]
    for term in published["distillation"]:
        term.pop("scale", None)
        if "projector" in term:
            term["projector"] = "learned"
    assert rest == published["distillation"]


def test_the_tutorials_term_has_the_gradient_of_soft_target():
    # alpha T^2 BCE(q, p) at T = 5 and two classes: see unet_tutorial.yaml
    [(loss, _, _, weight)] = read("unet_tutorial")[1]
    student, teacher = features({}, 0, 2)["logits"].requires_grad_(), features({}, 1, 2)["logits"]
    tutorial = 25 * F.binary_cross_entropy((student / 5).softmax(1), (teacher / 5).softmax(1))
    (expected,) = torch.autograd.grad(tutorial, student)
    (gradient,) = torch.autograd.grad(weight * loss(student, teacher, labels(2)), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-9)


def of_images(shapes: dict[str, tuple[int, ...]], seed: int, num_classes: int = 3) -> dict[str, torch.Tensor]:
    """Features of three images, and every head that a classification network may have."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes | dict.fromkeys(("logits", "class_logits", "distillation_logits"), (num_classes,))
    return {name: torch.randn(3, *shape, generator=generator) for name, shape in shapes.items()}


def sides(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Student, teacher and target of a classification method; ISIC has two classes."""
    shapes = (STAGES, STAGES) if name in HDKD else (VIT, SWIN)
    num_classes = 2 if name in ISIC else 3
    student, teacher = (of_images(side, seed, num_classes) for seed, side in enumerate(shapes))
    return {tap: value.requires_grad_() for tap, value in student.items()}, teacher, torch.tensor([0, 1, 1])


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
    recipe = yaml.safe_load(METHODS[name].read_text())
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
    ours, published, hard = (yaml.safe_load(METHODS[name].read_text()) for name in HDKD)
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
        (s["embedding"], adapt[2](t["embedding"], 8)),
    ]
    task = F.cross_entropy(s["logits"], target, weight=torch.tensor([0.01, 1.0]))
    expected = 0.2 * task + 0.8 / 3 * sum(mse(*pair) for pair in pairs)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)  # the recipe has 0.2667


@pytest.mark.parametrize("name", ["feature", "token", "combined"])
def test_the_repaired_methods_of_isic_have_the_projector_on_the_students_side(name):
    ours, published = (yaml.safe_load(METHODS[method].read_text()) for method in (name, f"{name}_as_published"))
    hints = [term for term in published["distillation"] if term["name"] == "hint"]
    assert {term.pop("projector_on") for term in hints} == {"teacher"}
    published.pop("task_loss")  # its class weights; ours are the data recipe's
    assert ours == published


def test_combined_is_the_weighted_sum_of_its_parts():
    parts = {name: yaml.safe_load(METHODS[name].read_text()) for name in ("response", "feature", "token", "combined")}
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
