"""Projector: none, learned, orthogonal and random, inside every loss that has one."""

import pytest
import torch
from loss_features import make

from utils.distillation.losses import DISTILLATION_LOSSES
from utils.distillation.losses.projector import Projector

PROJECTED = ["attention_feature", "channel_wise", "hint", "region_normalized", "soft_target", "unified_soft_target"]
PROJECTED += ["wavelet"]
TARGET = torch.zeros(2, 1, 8, 8, dtype=torch.int64)


def features(channels: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PROJECTED)
def test_no_projector_between_different_channels_is_refused_with_both_numbers(name):
    with pytest.raises(ValueError, match=r"4 and 6 channels.*projector: learned"):
        make(name, projector="none")(features(4), features(6), TARGET)


@pytest.mark.parametrize(("kind", "channels", "text"), [
    ("none", 4, "none"),
    ("learned", 4, "none"),
    ("mlp", 4, "none"),
    ("orthogonal", 4, "none"),
    ("random", 4, "random 4 -> 4"),
    ("learned", 6, "learned 4 -> 6"),
    ("mlp", 6, "mlp 4 -> 6"),
    ("orthogonal", 6, "orthogonal 4 -> 6"),
    ("random", 6, "random 4 -> 6"),
])  # fmt: skip
def test_a_projector_says_what_it_is(kind, channels, text):
    loss = DISTILLATION_LOSSES["soft_target"](projector=kind)
    assert repr(loss.projector) == kind
    loss(features(4), features(channels), None)
    assert repr(loss.projector) == text


@pytest.mark.parametrize("kind", ["learned", "mlp", "orthogonal", "random"])
def test_a_vector_and_a_token_are_projected_like_a_pixel(kind):
    projector = Projector(kind)
    if kind == "random":
        torch.testing.assert_close(projector(features(), 6).shape, (2, 6, 8, 8))
        return
    whole = projector(features(), 6)
    torch.testing.assert_close(projector(features()[:, :, 3, 5], 6), whole[:, :, 3, 5])
    torch.testing.assert_close(projector(features().flatten(2), 6), whole.flatten(2))


def test_an_mlp_is_two_layers_with_a_relu_between():
    projector = Projector("mlp")
    vector = features()[:, :, 0, 0]
    projected = projector(vector, 6)
    first, second = projector.layer
    assert [(layer.in_features, layer.out_features) for layer in (first, second)] == [(4, 6), (6, 6)]
    torch.testing.assert_close(projected, second(first(vector).relu()))


def test_a_learned_projector_can_become_what_the_teacher_is():
    student, loss = features(4), DISTILLATION_LOSSES["hint"]()
    teacher = torch.einsum("bchw,dc->bdhw", student, torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    first = loss(student, teacher, None)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(student, teacher, None)
        value.backward()
        optimizer.step()
    assert value < 1e-3 * first


@pytest.mark.parametrize("channels", [2, 6])
def test_an_orthogonal_projector_stays_orthonormal_while_it_learns_under_autocast(channels):
    student, teacher, loss = (
        features(4),
        features(channels, seed=1),
        DISTILLATION_LOSSES["hint"](projector="orthogonal"),
    )
    loss(student, teacher, None)
    before = loss.projector.layer.weight.detach().clone()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(student, teacher, None)
        value.backward()
        optimizer.step()
    weight = loss.projector.layer.weight
    assert (weight - before).abs().max() > 0.05
    product = weight @ weight.T if channels < 4 else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(min(channels, 4)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PROJECTED)
def test_a_random_projector_is_new_at_every_call_and_repeats_with_the_generator(name):
    student, teacher = features(4), [features(6, seed=1)] if name.startswith("unified") else features(6, seed=1)
    loss = make(name, projector="random")
    torch.manual_seed(5)
    values = [loss(student, teacher, TARGET).item() for _ in range(2)]
    state = torch.get_rng_state()
    values += [loss(student, teacher, TARGET).item() for _ in range(2)]
    assert len(set(values)) == 4
    assert not list(loss.parameters())
    resumed = make(name, projector="random")
    resumed(student, teacher, TARGET)
    earlier = {f"{key}.next_seed": torch.tensor(7) for key, part in resumed.named_modules() if hasattr(part, "kind")}
    resumed.load_state_dict(loss.state_dict() | earlier)  # earlier runs saved a seed
    torch.set_rng_state(state)
    assert [resumed(student, teacher, TARGET).item() for _ in range(2)] == values[2:]


def test_a_random_projector_stands_on_the_joined_side_as_published():
    loss = DISTILLATION_LOSSES["unified_soft_target"](projector="random")
    loss(features(4), [features(6), features(3)], None)
    assert repr(loss.projector) == "random 9 -> 4"
    loss = DISTILLATION_LOSSES["unified_soft_target"](projector="random")
    loss([features(6), features(3)], features(2), None)
    assert repr(loss.projector) == "random 9 -> 2"


@pytest.mark.parametrize("kind", ["learned", "mlp", "orthogonal"])
def test_what_a_loss_learnt_loads_strictly_after_a_dry_run(kind):
    loss, resumed = (DISTILLATION_LOSSES["hint"](projector=kind) for _ in range(2))
    expected = loss(features(4), features(6, seed=1), None)
    with torch.inference_mode():
        resumed(features(4), features(6, seed=1), None)
    resumed.load_state_dict(loss.state_dict(), strict=True)
    torch.testing.assert_close(resumed(features(4), features(6, seed=1), None), expected, rtol=0, atol=0)
    assert all(not parameter.is_inference() for parameter in resumed.parameters())
