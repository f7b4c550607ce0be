"""export.py on networks that take images of one size, and on those that classify."""

import csv
import json

import numpy as np
import pytest
import torch
from image_stores import write_image
from tiny_checkpoints import predict, voxels
from tiny_exports import Labels, export, networks, run_of, store

from utils.runs.models import load_model
from utils.training import checkpoints

__all__ = ["networks", "store"]  # fixtures


def test_a_network_of_one_size_says_so_and_smaller_slices_are_padded(networks, store, tmp_path, capsys):
    run_of("OneSize", tmp_path / "run", store / "store")
    assert export(tmp_path / "run", tmp_path / "out", "--formats", "onnx", "--data", store / "store") == 0
    assert "OneSize cannot be exported for any size, its ONNX takes 64x64 only" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["onnx"]["size"] == [64, 64]
    source = store / "raw/case_00001/imaging.nii.gz"
    assert predict(tmp_path / "run", source, tmp_path / "torch") == 0
    assert predict(tmp_path / "out/student.onnx", source, tmp_path / "onnx") == 0
    ours, theirs = (voxels(next((tmp_path / name).glob("*.nii.gz"))) for name in ("onnx", "torch"))
    assert np.array_equal(ours, theirs)
    network = load_model(tmp_path / "out/student.onnx").network
    assert network.pad_value == -1.0  # the low end of the window
    image = torch.randn(2, 1, 32, 64)
    padded = torch.full((2, 1, 64, 64), -1.0)
    padded[:, :, 16:48] = image  # evenly on both sides
    expected = checkpoints.rebuild(checkpoints.load(tmp_path / "run"))(padded)[:, :, 16:48]
    torch.testing.assert_close(network(image), expected.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes images of at most 64x64, not 96x64"):
        network(torch.zeros(1, 1, 96, 64))


def test_a_classifier_is_exported_and_answers_as_its_checkpoint(networks, tmp_path, capsys):
    torch.manual_seed(0)
    preprocessing = {"kind": "image", "class_names": ["benign", "malignant"], "image_size": 28, "in_channels": 3}
    preprocessing |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint = {
        "network": {"name": "Labels", "num_classes": 2},
        "weights": Labels().state_dict(),
        "preprocessing": preprocessing,
        "split": {"train": ["a"], "val": [], "test": [], "sha256": "0" * 64},
        "scores": {"scores": {}, "cases": []},
        "recipe": {"training": {"precision": "32-true", "channels_last": True}},
    }
    checkpoints.save(checkpoint, tmp_path / "x.ckpt")
    assert export(tmp_path / "x.ckpt", tmp_path / "out", "--formats", "safetensors", "onnx") == 0
    assert "scores not measured" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/student.json").read_text())["outputs"] == ["benign", "malignant"]
    for number in range(5):
        write_image(tmp_path / f"in/{number}.png", number % 3, number)
    tables = []
    for name in ("x.ckpt", "out/student.onnx", "out"):
        assert predict(tmp_path / name, tmp_path / "in", tmp_path / f"table{len(tables)}") == 0
        with (tmp_path / f"table{len(tables)}/predictions.csv").open() as file:
            tables.append(list(csv.reader(file)))
    assert tables[0][0] == ["image", "prediction", "benign", "malignant"] and len(tables[0]) == 6
    for table in tables[1:]:
        assert [row[:2] for row in table] == [row[:2] for row in tables[0]]
        np.testing.assert_allclose(
            *(np.array([row[2:] for row in t[1:]], float) for t in (table, tables[0])), atol=2e-6
        )
