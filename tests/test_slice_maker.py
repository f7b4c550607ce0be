"""SliceMaker: volumes in, store out; what is done is kept, what is interrupted continues."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from raw_cases import KITS, LITS, hounsfield, kits_case, label_of, make, msd, save, volume_of

from datasets.slices.store import read_index, read_manifest, read_slice, write_slice
from datasets.splits import read_split, split_sha256

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def kits(tmp_path) -> Path:
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    return tmp_path / "raw"


@pytest.mark.parametrize("flags", [(), ("--compress",), ("--format", "png")])
def test_every_voxel_of_image_and_label_survives(kits, tmp_path, flags):
    assert make(kits, tmp_path / "out", *flags) == 0
    for number in range(4):
        image, label = volume_of(tmp_path / "out", f"case_{number:05d}")
        assert image.dtype == np.int16 and label.dtype == np.uint8
        assert np.array_equal(image, hounsfield(number)) and np.array_equal(label, label_of())


def test_kits_and_lits_come_out_in_the_same_orientation(kits, tmp_path):
    # the same body: LiTS stores (W, H, slices), and its slices run up where those of KiTS run down
    save(tmp_path / "lits/Training_Batch1/volume-7.nii", hounsfield(0).transpose(2, 1, 0)[:, :, ::-1], LITS)
    save(tmp_path / "lits/Training_Batch1/segmentation-7.nii", label_of().transpose(2, 1, 0)[:, :, ::-1], LITS)
    assert make(kits, tmp_path / "a") == 0 and make(tmp_path / "lits", tmp_path / "b", dataset="lits") == 0
    ours = [record for record in read_index(tmp_path / "a") if record.case == "case_00000"]
    theirs = read_index(tmp_path / "b")
    assert [record.labels for record in theirs] == [(), (), (1,), (1, 2), (1,), ()]
    for first, second in zip(ours, theirs, strict=True):
        for left, right in zip(read_slice(first.path), read_slice(second.path), strict=True):
            assert np.array_equal(left, right)
    assert np.array_equal(read_slice(theirs[0].path)[0], hounsfield(0)[5])  # most inferior first


def test_the_index_tells_every_slice_and_the_statistics_of_its_case(kits, tmp_path):
    make(kits, tmp_path / "out", "--task", "organ")
    records = read_index(tmp_path / "out")
    assert len(records) == 24
    first = [record for record in records if record.case == "case_00001"]
    assert [record.slice for record in first] == list(range(6))
    assert [record.labels for record in first] == [(), (), (1,), (1, 2), (1,), ()]
    assert first[0].mean == pytest.approx(hounsfield(1).mean(), rel=1e-6)
    assert first[0].std == pytest.approx(hounsfield(1).std(), rel=1e-6)
    low, high = np.percentile(hounsfield(1), [0.5, 99.5], method="inverted_cdf")
    assert (first[0].p005, first[0].p995) == (low, high)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["task"] == "organ" and manifest["modality"] == "CT" and manifest["tumor_labels"] == [2]
    assert manifest["labels"] == {"1": "kidney", "2": "tumor"}
    assert manifest["split_sha256"] == split_sha256(read_split(tmp_path / "out/split.json"))


def test_the_geometry_holds_the_grid_and_the_hash_of_the_source(kits, tmp_path):
    make(kits, tmp_path / "out")
    geometry = json.loads((tmp_path / "out/case_00002/geometry.json").read_text())
    source = kits / "case_00002/imaging.nii.gz"
    assert geometry["image_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (geometry["sform_code"], geometry["qform_code"]) == (2, 1)
    assert geometry["shape"] == [6, 10, 12] and geometry["axis"] == 0
    assert geometry["slice_spacing"] == pytest.approx([2.5, 0.8, 0.8])
    assert np.allclose(geometry["affine"], KITS)


def test_a_cyst_is_kept_as_a_cyst(kits, tmp_path):
    kits_case(kits, 1, label=np.where(label_of() == 2, 3, label_of()).astype(np.uint8))
    assert make(kits, tmp_path / "out") == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["labels"]["3"] == "cyst" and manifest["tumor_labels"] == [2]
    assert {record.labels for record in read_index(tmp_path / "out") if record.case == "case_00001"} == {
        (),
        (1,),
        (1, 3),
    }


def test_a_second_run_keeps_what_is_unchanged_and_slices_what_is_not(kits, tmp_path, capsys):
    make(kits, tmp_path / "out")
    kits_case(kits, 2, image=hounsfield(9))
    capsys.readouterr()
    assert make(kits, tmp_path / "out") == 0
    assert "1 sliced now, 3 kept, 0 bad" in capsys.readouterr().out
    assert np.array_equal(volume_of(tmp_path / "out", "case_00002")[0], hounsfield(9))


def test_a_touched_source_is_sliced_again_even_if_it_is_as_long(kits, tmp_path, capsys):
    make(kits, tmp_path / "out")
    os.utime(kits / "case_00003/segmentation.nii.gz", (1, 1))
    capsys.readouterr()
    assert make(kits, tmp_path / "out") == 0
    assert "1 sliced now, 3 kept, 0 bad" in capsys.readouterr().out


def test_a_failure_while_writing_publishes_nothing_and_the_next_run_repairs_it(kits, tmp_path, monkeypatch):
    def full(path, *arguments):
        if "case_00001" in str(path) and path.stem == "0003":
            raise OSError(28, "No space left on device", str(path))
        write_slice(path, *arguments)

    monkeypatch.setattr("datasets.slices.slicing.write_slice", full)
    assert make(kits, tmp_path / "out") == 1
    assert not (tmp_path / "out/case_00001").exists()
    monkeypatch.undo()
    assert make(kits, tmp_path / "out") == 0
    assert len(read_index(tmp_path / "out")) == 24
    assert not list((tmp_path / "out").glob(".*"))


def test_killed_and_started_again_it_equals_an_uninterrupted_run(tmp_path):
    for number in range(3, 9):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, (60, 128, 128)), label=label_of((60, 128, 128)))
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "scripts/SliceMaker.py", "--inpath", tmp_path / "raw", "--outpath", out]
    process = subprocess.Popen([*command, "--dataset", "kits", "--jobs", "1"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("case_*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in out.glob("case_*"):
        assert len(list(folder.glob("*.npz"))) == 60  # whole or absent
    assert make(tmp_path / "raw", out) == 0 and make(tmp_path / "raw", tmp_path / "whole") == 0
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()
    )
    assert all((out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files)


def test_shards_and_processes_give_the_same_store_as_one_run(kits, tmp_path):
    make(kits, tmp_path / "one")
    for shard in ("1/2", "0/2"):
        assert make(kits, tmp_path / "two", "--shard", shard, "--jobs", "2") == 0
    for name in ("index.csv", "split.json", "dataset.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_a_dask_scheduler_gives_the_same_store(kits, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is optional and not installed")
    flags = {"n_workers": 1, "processes": False, "dashboard_address": None, "protocol": "tcp"}
    with distributed.LocalCluster(**flags) as cluster:
        assert make(kits, tmp_path / "a", "--scheduler", cluster.scheduler_address) == 0
    make(kits, tmp_path / "b")
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()


def test_without_dask_the_scheduler_flag_says_what_to_install(kits, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert make(kits, tmp_path / "out", "--scheduler", "tcp://host:8786") == 2
    assert "pip install distributed" in capsys.readouterr().err


def test_the_published_commands_work_as_written(kits, tmp_path):
    script = str(ROOT / "scripts/SliceMaker.py")
    for flags in (["--inpath", "raw", "--outpath", "a"], ["--in_path", "raw", "--out_path", "b", "--process_num", "2"]):
        command = [sys.executable, script, *flags, "--dataset", "kits", "--task", "tumor"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()


@pytest.mark.parametrize("flags", [("--split", "0.7", "0.1", "0.1"), ("--shard", "2/2")])
def test_a_wrong_flag_is_said_in_one_line(kits, tmp_path, capsys, flags):
    assert make(kits, tmp_path / "out", *flags) == 2
    message = capsys.readouterr().err.strip()
    assert flags[0] in message


def test_tumor_is_refused_where_there_is_none(tmp_path, capsys):
    msd(tmp_path / "raw", {"a": hounsfield(0)})
    assert make(tmp_path / "raw", tmp_path / "out", "--task", "tumor", dataset="msd") == 2
    assert "--task organ" in capsys.readouterr().err


def test_slicing_into_npz_imports_numpy_and_nibabel_and_not_much_else(kits, tmp_path):
    """Imports would take a second of a run, and of each worker that is started with them."""
    code = (
        "import sys, scripts.SliceMaker as script\n"
        "status = script.main(sys.argv[1:])\n"
        "print({'torch', 'monai', 'tqdm', 'PIL', 'pandas', 'scipy.ndimage'} & set(sys.modules))\n"
        "sys.exit(status)\n"
    )
    flags = ["--inpath", kits, "--outpath", tmp_path / "out", "--dataset", "kits", "--jobs", "2"]
    result = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()"
