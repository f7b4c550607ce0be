"""The device of a prediction, which is Fabric's in all that a forward pass needs."""

from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric

from utils.training.device import choose_device


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_forward_pass_is_that_of_fabric(precision):
    network, image = torch.nn.Linear(7, 5), torch.randn(3, 7)
    answers = []
    for device in (choose_device("cpu", precision), Fabric(accelerator="cpu", devices=1, precision=precision)):
        with device.autocast():
            answers.append(device.to_device(network)(device.to_device(image)))
    assert answers[0].dtype == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is asked")
@pytest.mark.parametrize(
    ("accelerator", "precision", "error"),
    [("cuda", "32-true", "finds no CUDA"), ("auto", "16-mixed", "needs a CUDA"), ("cpu", "8-bit", "8-bit: choose")],
)
def test_what_is_not_there_is_refused(accelerator, precision, error):
    with pytest.raises(ValueError, match=error):
        choose_device(accelerator, precision)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is asked")
@pytest.mark.parametrize("library", [SimpleNamespace(), SimpleNamespace(mallopt=lambda parameter, value: 1)])
def test_glibc_is_told_to_keep_what_a_layer_frees(library, monkeypatch):
    """What it is worth is measured in docs/speed.md; another C library has no mallopt."""
    told = {}
    if hasattr(library, "mallopt"):
        library.mallopt = told.__setitem__
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    choose_device("cpu", "32-true")
    if hasattr(library, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        assert told[m_trim_threshold] > 2**30 and told[m_mmap_threshold] == 2**25
