"""What a method's terms weigh against the task: the share that is asked, the same for every first weight."""

import copy
import statistics

import pytest
import torch
from lightning_fabric import Fabric
from tiny_runs import Tiny
from torch import nn
from torch.utils.data import Dataset, default_collate

from networks import NETWORKS
from utils.distillation.balance import MEASURED, WARM_UP, balance
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.terms import Task, Term
from utils.recipe.schema import Training
from utils.training.optimization import gradient_shares, make_optimizer
from utils.training.order import order_of

SETTINGS = Training(batch_size=4, learning_rate=5e-3)


class Blobs(Dataset):
    """Bright squares in noise."""

    sampling_weights = labeled = None
    epoch = 3

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image, target = torch.randn(1, 32, 32, generator=generator), torch.zeros(1, 32, 32, dtype=torch.int64)
        top = int(torch.randint(4, 20, (1,), generator=generator))
        image[:, top : top + 8, 8:16] += 3
        target[:, top : top + 8, 8:16] = 1
        return {"image": image, "target": target}

    def batch(self, indices):
        return default_collate([self[index] for index in indices])


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def distiller(seed=0, network=Tiny):
    torch.manual_seed(seed)
    student, teacher = (network(width=width) for width in (4, 8))
    loss = DISTILLATION_LOSSES["soft_target"](temperature=4.0)
    term = Term(loss, student="logits", teacher="logits", weight=2.0)
    return Distiller(student, Task(TASK_LOSSES["dice_ce"]()), teacher, {"soft": term})


def test_the_share_holds_after_the_warm_up(fabric):
    objective, dataset = distiller(), Blobs()
    factor = balance(fabric, objective, dataset, SETTINGS, seed=0, share=3.0)
    assert objective.weights["soft"] == pytest.approx(2 * factor)
    order = order_of(dataset, 4, seed=0).epoch(0)
    optimizer = make_optimizer(objective.network.parameters(), SETTINGS)
    task = Distiller(objective.network, objective.task).train()
    ratios = []
    for step in range(WARM_UP + MEASURED):
        batch = dataset.batch(order[step % len(order)])
        if step < WARM_UP:
            task(batch["image"], batch["target"])["task"].backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            shares = gradient_shares(fabric, objective.train(), batch["image"], batch["target"])
            ratios.append(shares["soft"] / shares["task"])
    assert statistics.median(ratios) == pytest.approx(3.0, rel=1e-3)


def test_it_leaves_no_trace_but_the_weights(fabric):
    objective = distiller().eval()
    before, state = copy.deepcopy(objective.state_dict()), torch.random.get_rng_state()
    balance(fabric, objective, Blobs(), SETTINGS, seed=0, share=1.0)
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not objective.network.training and all(p.grad is None for p in objective.network.parameters())


def test_the_weight_is_alike_whatever_the_first_weights(fabric):
    def unet(width):
        return NETWORKS["unet"](widths=[4, 4, 4, 4, width])

    factors = [balance(fabric, distiller(seed, unet), Blobs(), SETTINGS, seed=0, share=1.0) for seed in range(3)]
    assert max(factors) < 4 * min(factors)


def test_what_terms_weigh_against_each_other_stays(fabric):
    objective = distiller()
    objective.terms.append(Term(DISTILLATION_LOSSES["soft_target"](temperature=1.0), "logits", "logits", 0.5))
    objective.names.append("hard")
    objective.weights["hard"] = 0.5
    balance(fabric, objective, Blobs(), SETTINGS, seed=0, share=1.0)
    assert objective.weights["soft"] == pytest.approx(4 * objective.weights["hard"])


def test_terms_without_a_gradient_are_refused(fabric):
    objective = distiller()

    class Nothing(nn.Module):
        def forward(self, student, teacher, target):
            return 0 * student.sum()

    objective.terms[0].loss = Nothing()
    with pytest.raises(ValueError, match="no gradient to compare"):
        balance(fabric, objective, Blobs(), SETTINGS, seed=0, share=1.0)
