"""predict.py --engine: every engine labels as torch does, and auto takes and remembers the fastest of one promise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_cases import save as save_volume
from tiny_checkpoints import predict, record, voxels
from tiny_exports import copied, export, exported, networks, plain, scan, store
from torch import nn

from utils.exporting import parity
from utils.runs import engine_memory, engines, onnx_engines
from utils.runs.engine_memory import FILE, cache_folder, key_of, recall, remember
from utils.runs.engines import FastestNetwork
from utils.runs.models import load_model
from utils.runs.onnx_network import OnnxNetwork
from utils.training.device import Device

__all__ = ["exported", "networks", "plain", "store"]  # fixtures
SLOW, FAST = 90.0, 10.0


@pytest.fixture
def volume(tmp_path) -> Path:
    save_volume(tmp_path / "in/a.nii.gz", scan(0))
    return tmp_path / "in"


@pytest.fixture
def timed(monkeypatch, tmp_path) -> list[dict[str, str]]:
    """What is timed: the precision of each network by engine. ONNX Runtime wins, before OpenVINO."""
    asked = []
    order = {"torch": SLOW, "onnxruntime": FAST, "openvino": FAST + 1}

    def time(candidates, answer):
        asked.append({name: getattr(network, "precision", "fp32") for name, network in candidates.items()})
        return {name: order[name] for name in candidates}

    monkeypatch.setattr(engines, "_time", time)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def engine_of(out: Path) -> tuple[str, str]:
    (entry,) = record(out).values()
    return entry["engines"][0], entry["engines_why"][0]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_engine_labels_as_torch_does(exported, volume, tmp_path, engine):
    for name in ("torch", engine):
        assert predict(exported, volume, tmp_path / name, "--engine", name) == 0
        assert engine_of(tmp_path / name) == (name, "asked for")
    ours, theirs = (voxels(tmp_path / name / "a.nii.gz") for name in ("torch", engine))
    assert set(np.unique(ours)) == {0, 1, 2}
    assert np.array_equal(ours, theirs)
    network = OnnxNetwork(exported / "student.onnx", engine=engine)
    rows = parity.compare(load_model(exported).network, network, parity.probes(1, 64, fixed=False))
    parity.refuse_apart(rows, engine)
    assert network.description() == OnnxNetwork(exported / "student.onnx").description()


def test_auto_takes_the_fastest_says_why_and_remembers_it(exported, volume, tmp_path, timed, capsys):
    assert predict(exported, volume, tmp_path / "out") == 0
    assert timed == [{"torch": "fp32", "onnxruntime": "fp32", "openvino": "fp32"}]
    why = "auto: onnxruntime 10 ms, openvino 11 ms, torch 90 ms a slice"
    assert engine_of(tmp_path / "out") == ("onnxruntime", why)
    assert f"engine  onnxruntime ({why})" in capsys.readouterr().out
    assert predict(exported, volume, tmp_path / "again") == 0
    assert engine_of(tmp_path / "again") == ("onnxruntime", why)
    assert len(timed) == 1
    # the labels are those of the export, whatever runs it: nothing is done again for another engine
    assert predict(exported, volume, tmp_path / "out", "--engine", "torch") == 0
    assert "1 kept" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", "[]", "{", "{key: 1}", '{key: {"torch": -1.0}}', '{key: {"torch": "a"}}'])
def test_a_damaged_memory_is_no_error(exported, volume, tmp_path, timed, damage):
    assert predict(exported, volume, tmp_path / "out") == 0
    file = cache_folder() / FILE
    (key,) = json.loads(file.read_text())
    file.write_text(damage.replace("key", json.dumps(key)))
    assert predict(exported, volume, tmp_path / "again") == 0
    assert len(timed) == 2
    assert recall(key)["torch"] == SLOW


def test_a_memory_that_cannot_be_written_is_no_error(exported, volume, tmp_path, timed):
    (tmp_path / "cache").write_text("a file")
    for name in ("out", "again"):
        assert predict(exported, volume, tmp_path / name) == 0
    assert len(timed) == 2


def test_the_memory_is_of_this_file_engine_size_precision_and_number_of_threads(monkeypatch):
    facts = [{"student.onnx": "00"}, {"torch": "1"}, (1, 64, 64), "32-true"]
    keys = [key_of(*facts)]
    for place, other in enumerate(({"student.onnx": "11"}, {"torch": "2"}, (3, 64, 64), "bf16-mixed")):
        keys.append(key_of(*facts[:place], other, *facts[place + 1 :]))
    for name in ("processor", "torch.get_num_threads"):
        monkeypatch.setattr(f"utils.runs.engine_memory.{name}", lambda: 77)
        keys.append(key_of(*facts))
    assert len(set(keys)) == 7


def test_the_memory_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine_memory, "KEPT", 2)
    for key in "abca":
        remember(key, {"torch": 1.0})
    assert [recall(key) != {} for key in "abc"] == [True, False, True]


def test_int8_runs_only_where_it_is_named(plain, store, volume, tmp_path, timed, capsys):
    assert export(plain, tmp_path / "out", "--formats", "safetensors", "onnx", "int8", "--calibration", 4) == 0
    assert predict(tmp_path / "out", volume, tmp_path / "fp32") == 0
    assert predict(tmp_path / "out/student_int8.onnx", volume, tmp_path / "int8") == 0
    assert [set(each.values()) for each in timed] == [{"fp32"}, {"int8"}]
    assert set(timed[1]) == {"onnxruntime", "openvino"}
    (entry,) = record(tmp_path / "int8").values()
    assert entry["formats"] == ["onnx int8"]
    capsys.readouterr()
    # the engines round int8 otherwise: what one has labeled is not kept for another
    assert predict(tmp_path / "out/student_int8.onnx", volume, tmp_path / "int8", "--engine", "openvino") == 1
    assert "made by other options" in capsys.readouterr().err


def test_of_a_folder_with_onnx_alone_that_is_run(exported, volume, tmp_path, timed):
    folder = copied(exported, tmp_path)
    (folder / "student.safetensors").unlink()
    assert predict(folder, volume, tmp_path / "out") == 0
    assert list(timed[0]) == ["onnxruntime", "openvino"]


def test_a_checkpoint_is_torchs_and_other_engines_ask_for_an_export(plain, volume, tmp_path, timed, capsys):
    assert predict(plain, volume, tmp_path / "out") == 0
    assert engine_of(tmp_path / "out") == ("torch", "auto: torch alone runs checkpoints")
    assert timed == []
    assert predict(plain, volume, tmp_path / "no", "--engine", "openvino") == 2
    assert f"{plain}: openvino runs exported networks: first python scripts/export.py" in capsys.readouterr().err


def test_a_file_that_the_engine_does_not_run_is_refused_in_one_line(exported, volume, tmp_path, capsys):
    for name, engine, words in (
        ("student.safetensors", "onnxruntime", "onnxruntime runs student.onnx: give the exported folder"),
        ("student.onnx", "torch", "is ONNX, which torch does not run"),
    ):
        assert predict(exported / name, volume, tmp_path / "out", "--engine", engine) == 2
        assert f"{exported / name}: {words}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_openvino_the_engine_says_what_to_install_and_auto_does_without(
    exported, volume, tmp_path, timed, capsys, monkeypatch
):
    here = onnx_engines.is_installed
    for module in (engines, onnx_engines):
        monkeypatch.setattr(module, "is_installed", lambda name: name != "openvino" and here(name))
    assert predict(exported, volume, tmp_path / "out", "--engine", "openvino") == 2
    assert "--engine openvino: OpenVINO is not installed: pip install openvino" in capsys.readouterr().err
    assert predict(exported, volume, tmp_path / "out") == 0
    assert list(timed[0]) == ["torch", "onnxruntime"]


def test_onnx_of_another_export_is_refused(exported, volume, tmp_path, capsys):
    folder = copied(exported, tmp_path)
    content = bytearray((folder / "student.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "student.onnx").write_bytes(content)
    assert predict(folder, volume, tmp_path / "out") == 2
    assert "is not the file that" in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "chosen"), [("torch", "torch"), ("openvino", "onnxruntime")])
def test_onnx_of_one_size_takes_no_part_where_torch_runs(timed, engine, chosen):
    """The next volume may be larger, which it cannot answer; or smaller, and padded it has other edges."""
    other = nn.Identity()
    other.size = (64, 64)
    network = FastestNetwork(nn.Identity(), engine, {"onnxruntime": lambda: other}, {}, "a slice")
    network.settle(torch.zeros(1, 1, 64, 64), lambda network: None, Device(torch.device("cpu"), "32-true"))
    assert network.engine == chosen
    assert ("takes images of 64x64 only" in network.why) == (chosen == "torch")


def test_a_mixed_precision_that_is_asked_for_is_torchs(exported, volume, tmp_path, timed):
    assert predict(exported, volume, tmp_path / "out", "--precision", "bf16-mixed") == 0
    assert engine_of(tmp_path / "out") == ("torch", "auto: torch computes in bf16-mixed")


def test_a_mixed_precision_that_auto_resolves_to_is_torchs(exported, volume, tmp_path, timed, monkeypatch):
    monkeypatch.setattr("utils.training.device.torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert predict(exported, volume, tmp_path / "out", "--precision", "auto", "--device", "cpu") == 0
    assert engine_of(tmp_path / "out") == ("torch", "auto: torch computes in bf16-mixed")
    assert timed == []


def test_a_mixed_precision_is_not_recorded_of_an_engine_that_has_none(exported, volume, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.training.device.torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    out, engine = tmp_path / "out", ("--engine", "onnxruntime")
    assert predict(exported, volume, out, *engine, "--precision", "bf16-mixed") == 2
    assert "--precision bf16-mixed: onnxruntime computes as exported: leave it out" in capsys.readouterr().err
    assert predict(exported, volume, out, *engine, "--precision", "auto", "--device", "cpu") == 0
    assert [entry["options"]["precision"] for entry in record(out).values()] == ["32-true"]


def test_openvino_compiles_for_a_size_what_it_cannot_answer_with_sizes_left_open(exported):
    """As ENet, whose export would take seconds."""
    network = OnnxNetwork(exported / "student.onnx", engine="openvino")
    network._session._compiled = lambda image: [np.empty((0, 3, 0, 0), np.float32)]
    for batch, height, width in ((1, 64, 64), (2, 64, 64), (2, 96, 64), (1, 64, 64)):
        image = torch.randn(batch, 1, height, width)
        logits = load_model(exported).network(image)
        assert network(image).shape == logits.shape
        assert torch.allclose(network(image), logits, atol=1e-4)
