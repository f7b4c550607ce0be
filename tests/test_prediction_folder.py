"""predict.py: which cases, and their files: whole or absent, never over anything, continued where a run stopped."""

import multiprocessing
import signal
import time

import nibabel
import numpy as np
import pytest
from raw_cases import hounsfield, kits_case, save
from tiny_checkpoints import folder, labels_of, predict, record, scan, thresholds, unet, voxels

from datasets.volumes.nifti import write_volume
from utils.training import checkpoints

__all__ = ["folder", "thresholds"]  # fixtures


def test_a_list_names_the_cases(folder, tmp_path, thresholds):
    (tmp_path / "cases.csv").write_text("case,image\nfirst,in/b.nii.gz\nsecond,in/a.nii.gz\n")
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out") == 0
    assert np.array_equal(voxels(tmp_path / "out/first.nii.gz"), labels_of(hounsfield(1) // 4))
    assert sorted(record(tmp_path / "out")) == ["first", "second"]


def test_a_folder_of_kits_cases_is_predicted_by_their_names(tmp_path, thresholds):
    for number in (3, 8):
        kits_case(tmp_path / "raw", number)
    assert predict(thresholds, tmp_path / "raw", tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["case_00003", "case_00008"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image\nin/a.nii.gz\n", "columns case and image"),
        ("case,image\n../a,in/a.nii.gz\n", "is not a file name"),
        ("case,image\n", "no volume"),
        ("case,image\na,in/a.nii.gz\na,in/b.nii.gz\n", "both a"),
        ("case,image\na,in/a.nii.gz\na_probabilities,in/b.nii.gz\n", "two cases would be written"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(folder, tmp_path, thresholds, capsys, rows, said):
    (tmp_path / "cases.csv").write_text(rows)
    assert predict(thresholds, tmp_path / "cases.csv", tmp_path / "out", "--probabilities") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_a_bad_case_is_told_and_the_rest_finish(folder, tmp_path, thresholds, capsys):
    (folder / "b.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:500])
    assert predict(thresholds, folder, tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "b.nii.gz: truncated or damaged" in printed.err and printed.err.count("\n") == 1
    assert "2 predicted now, 0 kept, 1 bad" in printed.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "predictions.json"]


def test_what_is_done_is_kept_and_the_rest_is_predicted(folder, tmp_path, thresholds, capsys):
    assert predict(thresholds, folder, tmp_path / "out") == 0
    before = (tmp_path / "out/a.nii.gz").stat().st_mtime_ns
    (tmp_path / "out/b.nii.gz").unlink()
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert "1 predicted now, 2 kept, 0 bad" in capsys.readouterr().out
    assert (tmp_path / "out/a.nii.gz").stat().st_mtime_ns == before
    assert predict(thresholds, folder, tmp_path / "out", "--probabilities") == 0  # the labels stay, this is added
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert "0 predicted now, 3 kept, 0 bad" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["checkpoint", "option", "image", "stranger", "no record"])
def test_nothing_that_something_else_made_is_overwritten_unasked(folder, tmp_path, thresholds, capsys, change):
    out, flags, checkpoint = tmp_path / "out", [], thresholds
    assert predict(thresholds, folder, out) == 0
    if change == "checkpoint":
        checkpoint = unet(tmp_path / "other.ckpt")
    elif change == "option":
        flags = ["--minimum_volume", "0.001"]
    elif change == "image":
        save(folder / "a.nii.gz", hounsfield(9))
    elif change == "stranger":
        (folder / "d.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
        (out / "d.nii.gz").write_bytes(b"somebody's work")
    else:
        (out / "predictions.json").unlink()
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*.gz")}
    capsys.readouterr()
    assert predict(checkpoint, folder, out, *flags) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*.gz")} == before
    assert predict(checkpoint, folder, out, *flags, "--overwrite") == 0
    assert predict(checkpoint, folder, out, *flags) == 0
    assert "0 bad" in capsys.readouterr().out


def test_an_input_is_never_overwritten(folder, thresholds, capsys):
    before = (folder / "a.nii.gz").read_bytes()
    assert predict(thresholds, folder / "a.nii.gz", folder, "--overwrite") == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (folder / "a.nii.gz").read_bytes() == before and len(list(folder.iterdir())) == 3


def test_a_failure_while_writing_leaves_no_file_and_the_next_run_repairs_it(folder, tmp_path, thresholds):
    def full(path, header, **arguments):
        write_volume(path, header, **arguments)
        if "b.nii" in path.name:
            raise OSError(28, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.prediction.volumes.write_volume", full)
        assert predict(thresholds, folder, tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "predictions.json"]
    assert predict(thresholds, folder, tmp_path / "out") == 0
    assert sorted(record(tmp_path / "out")) == ["a", "b", "c"]


def test_killed_and_started_again_it_equals_an_uninterrupted_run(tmp_path):
    for number in range(4):
        save(tmp_path / "in" / f"{number}.nii.gz", np.tile(scan(number), (1, 2, 2)))
    checkpoint, out = unet(tmp_path / "x.ckpt"), tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=predict, args=(checkpoint, tmp_path / "in", out))
    process.start()  # a copy of this process, which has torch already
    deadline = time.monotonic() + 120
    while not list(out.glob("[!.]*.gz")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = list(out.glob("[!.]*.gz"))
    assert done and all(len(voxels(path)) == 9 for path in done)
    assert (
        predict(checkpoint, tmp_path / "in", out) == 0 and predict(checkpoint, tmp_path / "in", tmp_path / "whole") == 0
    )
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names if "nii" in name)


def test_the_record_tells_times_volumes_and_what_made_them(folder, tmp_path, thresholds):
    assert predict(thresholds, folder / "a.nii.gz", tmp_path / "out", "--jobs", "2") == 0
    entry = record(tmp_path / "out")["a"]
    assert set(entry["seconds"]) == {"read", "preprocess", "network", "postprocess", "write"}
    assert all(seconds > 0 for seconds in entry["seconds"].values())
    expected = labels_of(hounsfield(0) // 4)
    assert entry["volumes_ml"]["kidney"] == pytest.approx((expected == 1).sum() * 0.8 * 0.8 * 2.5 / 1000)
    assert entry["checkpoints"] == [checkpoints.sha256(thresholds)]
    assert entry["classes"] == {"1": "kidney", "2": "tumor"} and entry["slices"] == 6
    assert entry["peak_memory_mb"] > 50 and entry["device"] == "cpu"


def test_windows_as_images_and_guessed_orientations_are_noted(tmp_path, thresholds, capsys):
    image = nibabel.Nifti1Image(np.clip(hounsfield(0), 0, 255).astype(np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    notes = record(tmp_path / "out")["a"]["notes"]
    assert "neither sform nor qform" in notes[0] and "HU range is not CT" in notes[1]
    assert "note: " in capsys.readouterr().out
