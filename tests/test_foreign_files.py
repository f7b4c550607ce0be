"""A file that is not a checkpoint: one line that says what it is, and what to do."""

import argparse
import gzip
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from utils.training import checkpoints
from utils.training.foreign_files import read_inert


class Model(nn.Module):
    """Stands for a network of somebody else's code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image)


def whole(path: Path, **content) -> bytes:
    torch.save({"weights": {"a": torch.arange(1000.0)}, **content}, path)
    return path.read_bytes()


def flipped(content: bytes) -> bytes:
    """The same with a bit of the tensor turned."""
    place = content.index(torch.arange(1000.0).numpy().tobytes()) + 100
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


MADE = {
    "empty": (lambda path: path.write_bytes(b""), "is empty: copy or download it again"),
    "cut short": (lambda path: path.write_bytes(whole(path)[:-700]), "is cut short: copy or download it again"),
    "old and cut short": (
        lambda path: (
            torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False),
            path.write_bytes(path.read_bytes()[:-700]),
        ),
        "is cut short: copy or download it again",
    ),
    "damaged": (lambda path: path.write_bytes(flipped(whole(path))), "has no network"),
    "git-lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    ),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>Quota exceeded</html>"), "is a web page"),
    "text": (lambda path: path.write_text("epoch 3, Dice 0.9\n"), "is a text: give the checkpoint itself"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "is compressed with gzip: unpack it first"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "is an HDF5 file, as Keras writes it"),
    "numpy": (lambda path: np.save(path.open("wb"), np.ones(3)), "is a NumPy array"),
    "npz": (lambda path: np.savez(path.open("wb"), a=np.ones(3)), "is an archive of NumPy arrays"),
    "safetensors": (
        lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{}" + b"\0" * 9),
        "holds safetensors: give it with its own ending",
    ),
    "onnx": (lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch" + b"\0" * 99), "is an ONNX model"),
    "torchscript": (
        lambda path: torch.jit.save(torch.jit.script(Model()), str(path)),
        "is a TorchScript program: save model.state_dict()",
    ),
    "zip": (lambda path: zipfile.ZipFile(path, "w").writestr("run/best.ckpt", "x"), "is a zip archive (run/best.ckpt)"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, 4)), "is a pickle that torch.save did not write"),
    "model": (
        lambda path: torch.save(Model(), path),
        "names test_foreign_files.Model, which is not read, since that would execute code: save the weights alone",
    ),
    "code": (
        lambda path: torch.save({"weights": {}, "made": Path.mkdir, "by": os.getcwd}, path),
        "which is not read, since that would execute code",
    ),
    "numbers": (lambda path: torch.save([1, 2], path), "holds no weights of a network (list)"),
    "results": (
        lambda path: torch.save({"dice": 0.9, "cases": []}, path),
        "holds no weights of a network (dice, cases)",
    ),
    "state dict": (
        lambda path: torch.save({"state_dict": Model().state_dict()}, path),
        "holds weights alone (2 tensors, such as layer.weight), not a checkpoint of train.py",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", MADE)
def test_a_file_that_is_no_checkpoint_says_what_it_is(tmp_path, kind):
    path = tmp_path / "best.ckpt"
    make, said = MADE[kind]
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError) as refused:
        checkpoints.load(path)
    assert said in str(refused.value), refused.value
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_folder_without_a_checkpoint_and_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"best.ckpt: no such checkpoint"):
        checkpoints.load(tmp_path)
    (tmp_path / "best.ckpt").write_bytes(b"x")
    (tmp_path / "best.ckpt").chmod(0)
    if os.access(tmp_path / "best.ckpt", os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(ValueError, match=r"best.ckpt: Permission denied: ask for the permission"):
        checkpoints.load(tmp_path)


def test_a_training_state_is_read_without_importing_what_it_names(tmp_path, monkeypatch):
    package = ModuleType("pytorch_lightning.callbacks")
    package.Checkpoint = type("Checkpoint", (), {"__module__": package.__name__})
    package.AttributeDict = type("AttributeDict", (dict,), {"__module__": package.__name__})
    for name in ("pytorch_lightning", package.__name__):
        monkeypatch.setitem(sys.modules, name, package)
    content = {
        "state_dict": {"a": torch.ones(2)},
        "callbacks": {package.Checkpoint: {"best": np.float64(0.9)}},  # as Lightning wrote it before 1.5
        "hyper_parameters": package.AttributeDict(hparams=argparse.Namespace(task="tumor", ids=np.arange(3))),
        "place": tmp_path,
    }
    for new in (True, False):
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
        found = read_inert(tmp_path / "a.ckpt")
        assert torch.equal(found["state_dict"]["a"], torch.ones(2))
        assert found["hyper_parameters"]["hparams"].task == "tumor"
        assert package.Checkpoint not in found["callbacks"]
