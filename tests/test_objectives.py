"""The objective: what is trained, what is frozen, what is weighed."""

import pytest
import torch

from networks import NETWORKS
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.taps import tap
from utils.distillation.terms import Task, Term, asks_teacher, name_terms, read_terms
from utils.experiment.teacher import trial

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(2, 1, 32, 32, generator=GENERATOR)
TARGET = torch.randint(0, 2, (2, 1, 32, 32), generator=GENERATOR)


def small(width: int) -> torch.nn.Module:
    return NETWORKS["unet"](widths=(width,) * 5)


def distiller(sections: list[dict]) -> Distiller:
    torch.manual_seed(0)
    objective = Distiller(small(4), Task(TASK_LOSSES["dice_ce"]()), small(6), read_terms(sections))
    trial(objective, IMAGE, TARGET)
    return objective


LOGITS = {"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 1.0}
HINT = {"name": "hint", "student": "encoder2", "teacher": "encoder2", "weight": 0.5, "projector": "learned"}
UNIFIED = {
    "name": "unified_soft_target",
    "student": "encoder1",
    "teacher": ["decoder4", "decoder3"],
    "weight": 0.1,
    "projector": "orthogonal",
}


def test_supervised_is_the_task_loss_of_the_logits():
    objective = Distiller(small(4).eval(), Task(TASK_LOSSES["dice_ce"]()))
    expected = TASK_LOSSES["dice_ce"]()(objective.network(IMAGE), TARGET)
    assert torch.equal(objective(IMAGE, TARGET)["task"], expected)


def test_terms_are_named_by_loss_and_student_tap():
    assert list(distiller([LOGITS, HINT, UNIFIED])(IMAGE, TARGET)) == [
        "task",
        "soft_target/logits",
        "hint/encoder2",
        "unified_soft_target/encoder1",
    ]


def test_terms_on_one_tap_are_told_apart_by_the_teachers():
    other = {**HINT, "teacher": "encoder3"}
    assert list(read_terms([HINT, other])) == ["hint/encoder2_from_encoder2", "hint/encoder2_from_encoder3"]
    with pytest.raises(ValueError, match="given twice"):
        read_terms([HINT, HINT])


def test_a_term_three_times_as_heavy_pulls_three_times_as_much():
    def gradient(weight: float) -> torch.Tensor:
        objective = distiller([{**HINT, "weight": weight}])
        losses = objective(IMAGE, TARGET)
        (objective.weights["hint/encoder2"] * losses["hint/encoder2"]).backward()
        return next(objective.network.parameters()).grad

    torch.testing.assert_close(gradient(3.0), 3 * gradient(1.0))


@pytest.mark.parametrize("weight", [0.0, -1.0, "heavy"])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(ValueError, match="must be a positive number"):
        Term(DISTILLATION_LOSSES["hint"](), "logits", "logits", weight)


def test_the_teacher_is_frozen_and_stays_in_eval():
    objective = distiller([LOGITS]).train()
    before = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    assert objective.network.training
    assert not any(module.training for module in objective.teacher.modules())
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    sum(objective(IMAGE, TARGET).values()).backward()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in objective.teacher.state_dict().items())


def test_a_gradient_reaches_every_parameter_of_student_and_projectors():
    objective = distiller([LOGITS, HINT, UNIFIED]).train()
    sum(objective(IMAGE, TARGET).values()).backward()
    trained = {name: value for name, value in objective.named_parameters() if not name.startswith("teacher.")}
    assert sum(name.startswith("terms.") for name in trained) >= 2
    # The bias of a convolution before batch normalization has no effect: its gradient is zero but for rounding.
    assert all(value.grad is not None for value in trained.values())
    assert all(value.grad.abs().max() > 0 for name, value in trained.items() if not name.endswith("bias"))


def test_student_and_teacher_each_run_once():
    objective = distiller([LOGITS, HINT, UNIFIED]).train()
    calls = {"student": 0, "teacher": 0}

    def count(who):
        def hook(*_):
            calls[who] += 1

        return hook

    objective.network.register_forward_hook(count("student"))
    objective.teacher.register_forward_hook(count("teacher"))
    objective(IMAGE, TARGET)
    assert calls == {"student": 1, "teacher": 1}


def test_the_trial_tells_shapes_and_projectors_and_changes_nothing():
    torch.manual_seed(0)
    objective = Distiller(small(4), Task(TASK_LOSSES["dice_ce"]()), small(6), read_terms([HINT])).train()
    before = {name: value.clone() for name, value in objective.network.state_dict().items()}
    (row,) = trial(objective, IMAGE, TARGET)
    assert (row["student"], row["teacher"]) == ("encoder2 4x16x16", "encoder2 6x16x16")
    assert "learned" in row["projector"]
    assert objective.training
    assert all(torch.equal(before[name], value) for name, value in objective.network.state_dict().items())
    first = objective(IMAGE, TARGET)
    assert float(row["at start"]) == pytest.approx(first["hint/encoder2"].item(), rel=1e-3)


def test_a_term_that_cannot_be_computed_is_named_before_training():
    objective = Distiller(
        small(4), Task(TASK_LOSSES["dice_ce"]()), small(6), read_terms([{**HINT, "projector": "none"}])
    )
    with pytest.raises(ValueError, match=r"hint/encoder2.*4.*6"):
        trial(objective, IMAGE, TARGET)


class TwoLayers(torch.nn.Module):
    """The smallest network with two taps: what is compiled below is the objective, not a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = {"encoder1": "first", "encoder2": "second"}
        self.first, self.second = torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.Conv2d(width, width, 3, 2, 1)
        self.head = torch.nn.ConvTranspose2d(width, 2, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(image).relu()).relu())


def test_compiled_and_plain_objectives_agree():
    objective = Distiller(TwoLayers(4), Task(TASK_LOSSES["dice_ce"]()), TwoLayers(6), read_terms([LOGITS, HINT]))
    trial(objective.eval(), IMAGE, TARGET)
    compiled = torch.compile(objective, backend="aot_eager")(IMAGE, TARGET)
    for name, loss in objective(IMAGE, TARGET).items():
        torch.testing.assert_close(compiled[name], loss)


def test_names_need_terms_of_distinct_taps():
    term = Term(DISTILLATION_LOSSES["hint"](), ["encoder1", "encoder2"], "logits", 1.0)
    assert list(name_terms([("hint", term)])) == ["hint/encoder1+encoder2"]


OWN = {"name": "attention_transfer", "student": "encoder1", "teacher": "self/bottleneck", "weight": 1.0}
OWN_LOGITS = {**LOGITS, "student": "encoder2", "teacher": "self/logits", "projector": "learned"}


def test_a_term_may_learn_from_the_students_own_tap_which_gets_no_gradient():
    torch.manual_seed(0)
    network = small(4).eval()
    objective = Distiller(network, Task(TASK_LOSSES["dice_ce"]()), None, read_terms([OWN, OWN_LOGITS]))
    (first, second) = trial(objective, IMAGE, TARGET)
    assert (first["term"], first["teacher"]) == ("attention_transfer/encoder1", "self/bottleneck 4x2x2")
    assert second["teacher"] == "self/logits 2x32x32"
    objective.train()
    assert not any(feature.requires_grad for feature in objective.features(IMAGE)[1].values())
    features = tap(network, IMAGE, ["encoder1", "encoder2", "bottleneck"])
    expected = DISTILLATION_LOSSES["attention_transfer"]()(features["encoder1"], features["bottleneck"], TARGET)
    losses = objective(IMAGE, TARGET)
    torch.testing.assert_close(losses["attention_transfer/encoder1"], expected)
    sum(losses[name] for name in objective.names).backward()
    gradients = {name: value.grad for name, value in network.named_parameters()}
    deep = [name for name in gradients if name.startswith(("bottleneck", "decoder", "head"))]
    assert deep
    assert all(gradients[name] is None for name in deep)
    assert any(value is not None and value.abs().sum() > 0 for value in gradients.values())


def test_own_and_the_teachers_taps_mix_and_the_teacher_runs_only_where_it_is_asked():
    teacher, calls = small(6), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    task = Task(TASK_LOSSES["dice_ce"]())
    mixed = Distiller(small(4), task, teacher, read_terms([OWN, {**OWN, "teacher": "bottleneck"}]))
    assert mixed.names == [
        "attention_transfer/encoder1_from_self/bottleneck",
        "attention_transfer/encoder1_from_bottleneck",
    ]
    first, second = list(mixed(IMAGE, TARGET).values())[1:]
    assert first != second
    assert len(calls) == 1
    Distiller(small(4), task, teacher, read_terms([OWN]))(IMAGE, TARGET)
    assert len(calls) == 1


def test_a_teacher_is_needed_unless_every_term_is_the_students_own():
    joined = {**UNIFIED, "teacher": ["self/encoder2", "encoder3"]}
    assert asks_teacher([OWN, LOGITS])
    assert asks_teacher([joined])
    assert not asks_teacher([OWN, OWN_LOGITS])
    with pytest.raises(ValueError, match=r"teacher: none given.*encoder3"):
        Distiller(small(4), Task(TASK_LOSSES["dice_ce"]()), None, read_terms([joined]))


def test_an_own_tap_that_is_none_is_refused_with_the_nearest():
    objective = Distiller(
        small(4), Task(TASK_LOSSES["dice_ce"]()), None, read_terms([{**OWN, "teacher": "self/bottlenek"}])
    )
    with pytest.raises(ValueError, match=r"no tap 'bottlenek'; did you mean 'bottleneck'"):
        objective(IMAGE, TARGET)
