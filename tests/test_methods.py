"""configs/methods for masks: every recipe builds and runs, and the published ones compute the published formulas."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from method_recipes import MASKS, METHODS, STUDENT, TEACHER, THREE_CLASSES, features, pick, read

from scripts.benchmarks.kd_step import published_loss, published_task_loss

STUDENT_TAPS = {"encoder1", "encoder2", "encoder3", "encoder4", "bottleneck", "logits"}  # what every network has
TEACHER_TAPS = STUDENT_TAPS | {"decoder1", "decoder2", "decoder3", "decoder4"}


def labels(num_classes: int) -> torch.Tensor:
    target = torch.zeros(2, 1, 64, 64, dtype=torch.int64)
    target[:, :, 8:40, 16:48] = 1
    target[:, :, 16:32, 16:32] = num_classes - 1
    return target


def total(name: str, student: dict, teacher: dict, target: torch.Tensor) -> torch.Tensor:
    task_loss, terms = read(name)
    value = task_loss(student["logits"], target)
    for loss, student_taps, teacher_taps, weight in terms:
        value = value + weight * loss(pick(student, student_taps), pick(teacher, teacher_taps), target)
    return value


def as_list(taps: str | list[str]) -> list[str]:
    return [taps] if isinstance(taps, str) else taps


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
        own = {tap.removeprefix("self/") for tap in as_list(teacher_taps) if tap.startswith("self/")}
        assert {*as_list(student_taps), *own} <= STUDENT_TAPS
        assert {tap for tap in as_list(teacher_taps) if not tap.startswith("self/")} <= TEACHER_TAPS


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [(name, number) for name in MASKS for number in (2, 3) if number == 3 or name not in THREE_CLASSES],
)
def test_a_method_gives_every_student_feature_it_names_a_gradient(name, num_classes):
    student = {tap: value.requires_grad_() for tap, value in features(STUDENT, 0, num_classes).items()}
    teacher = features(TEACHER, 1, num_classes) | {f"self/{tap}": value.detach() for tap, value in student.items()}
    total(name, student, teacher, labels(num_classes)).backward()
    for _, taps, _, _ in read(name)[1]:
        for tap in as_list(taps):
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
            state = torch.get_rng_state()
            sides = (
                (join(t, teacher_taps, t["decoder4"]), 16) if isinstance(teacher_taps, list) else (s[student_taps], 2)
            )
            drawn.append(projector(*sides))
            torch.set_rng_state(state)
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
