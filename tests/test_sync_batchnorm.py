"""Batch normalization over all processes: asked for by the recipe, refused on a CPU, invisible in a checkpoint."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from networks import NETWORKS
from utils.experiment import prepare as preparation
from utils.recipe.schema import Recipe, Training
from utils.training.launch import launch, synchronized
from utils.training.loop import Job, begin

ASKED = Training(sync_batchnorm=True, batch_size=2, channels_last=False)


def small():
    torch.manual_seed(0)
    return NETWORKS["unet"](widths=[2, 2, 2, 2, 2])


def kinds(network):
    return {type(module) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}


def test_only_several_processes_that_ask_for_it_are_synchronized():
    assert kinds(synchronized(small(), ASKED, 2)) == {nn.SyncBatchNorm}
    assert kinds(synchronized(small(), ASKED, 1)) == kinds(synchronized(small(), Training(), 2)) == {nn.BatchNorm2d}


def test_a_checkpoint_of_it_is_one_of_a_plain_network():
    plain, network = small(), small()
    before = list(network.parameters())
    network = synchronized(network, ASKED, 2)
    assert all(one is other for one, other in zip(before, network.parameters(), strict=True))
    with torch.no_grad():
        for value in network.state_dict().values():
            value += 1
    plain.load_state_dict(network.state_dict(), strict=True)
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(plain.eval()(image), network.eval()(image))


def test_training_begins_with_it():
    class Two:
        """Two processes, of which this is the first, without the other."""

        world_size, global_rank, device = 2, 0, torch.device("cpu")

        def to_device(self, module):
            return module

        def setup(self, *parts):
            return parts

    objective = nn.Module()
    objective.network, objective.teacher, objective.weights = small(), small(), {"task": 1.0}
    dataset = type("", (), {"labeled": None, "sampling_weights": None, "__len__": lambda _: 4})()
    dataset.hold = lambda _device: True
    job = Job(Two(), objective, dataset, ASKED, 0, None, "", Path(), {}, None)
    state = begin(job, None)
    assert kinds(objective.network) == {nn.SyncBatchNorm} and kinds(objective.teacher) == {nn.BatchNorm2d}
    learned = {id(value) for group in state.optimizer.param_groups for value in group["params"]}
    assert {id(value) for value in objective.network.parameters()} <= learned


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is asked")
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_processes_on_a_cpu_are_refused_in_one_line(accelerator, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=r"^training\.sync_batchnorm: .*set it to false") as error:
        launch(Training(sync_batchnorm=True, accelerator=accelerator, devices=2))
    assert "\n" not in str(error.value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"training\.sync_batchnorm"):
        launch(Training(sync_batchnorm=True, accelerator=accelerator))


def test_one_process_on_a_cpu_may_ask_for_it(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert launch(Training(sync_batchnorm=True, accelerator="cpu")).world_size == 1


@pytest.mark.parametrize(("sync", "together"), [(True, 4), (False, 2)])
def test_one_image_a_process_is_enough_with_it(slice_store, monkeypatch, tmp_path, sync, together):
    seen = []
    monkeypatch.setattr(preparation, "launch", lambda _: SimpleNamespace(world_size=2, is_global_zero=True))
    monkeypatch.setattr(preparation, "refuse_lonely", lambda _network, _image, batch, _count: seen.append(batch))
    preparation.prepare(
        Recipe(
            output=str(tmp_path / "run"),
            data={"name": "slices", "root": str(slice_store), "task": "organ", "crop": 32},
            network={"name": "unet", "widths": [2, 2, 2, 2, 2]},
            training=Training(sync_batchnorm=sync, batch_size=4),
        )
    )
    assert seen == [together]
