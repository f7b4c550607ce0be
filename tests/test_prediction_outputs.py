"""The folder of predictions: a record is never beside files that it is not about, wherever a run was killed."""

import errno
import os
from pathlib import Path

import pytest
from raw_cases import hounsfield, save
from tiny_checkpoints import folder, labels_of, predict, record, thresholds, unet, voxels

from datasets.volumes.scans import Case
from utils.prediction import outputs
from utils.prediction.outputs import LABELS, PROBABILITIES, Predictions
from utils.prediction.predictor import Clock

__all__ = ["folder", "thresholds"]  # fixtures
SUFFIXES = [PROBABILITIES, LABELS]


def predictions(tmp_path, text, overwrite=False):
    case = Case("a", tmp_path / "a.nii")
    return case, Predictions(tmp_path / "out", [case], SUFFIXES, {"checkpoints": [text]}, overwrite)


def publish(tmp_path, text, overwrite=False):
    case, folder = predictions(tmp_path, text, overwrite)
    if not folder.kept(case):
        folder.publish(case, {}, {suffix: lambda path: path.write_text(text) for suffix in SUFFIXES}, Clock())


def contents(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "out").iterdir() if path.name != outputs.RECORD}


def publish_until(tmp_path, step, *arguments):
    """Publish in a process that ends, as if killed, before its `step`-th change of the disk; returns its status."""
    if (child := os.fork()) == 0:
        count = 0

        def counted(original):
            def change(*args, **kwargs):
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return original(*args, **kwargs)

            return change

        for name in ("write_text", "replace", "unlink"):
            setattr(Path, name, counted(getattr(Path, name)))
        try:
            publish(tmp_path, *arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("replaced", [False, True])
def test_killed_before_any_change_of_the_disk_it_ends_as_if_it_was_not(tmp_path, replaced):
    (tmp_path / "a.nii").write_text("image")
    (tmp_path / "out").mkdir()
    whole = {"a.nii.gz": "new", "a_probabilities.nii.gz": "new"}
    for step in range(1, 40):
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        if replaced:
            publish(tmp_path, "old")
        status = publish_until(tmp_path, step, "new", replaced)
        case, now = predictions(tmp_path, "new")
        try:
            assert not now.kept(case) or contents(tmp_path).items() >= whole.items()
        except ValueError as error:
            assert replaced and "made by other checkpoints" in str(error)
            files = {name: text for name, text in contents(tmp_path).items() if not name.startswith(".")}
            assert files == dict.fromkeys(whole, "old")
        publish(tmp_path, "new", replaced)
        assert contents(tmp_path) == whole
        if status == 0:
            break
    assert status == 0 and step > 8


def test_probabilities_of_another_checkpoint_are_never_taken_for_new_ones(folder, tmp_path, thresholds, capsys):
    out, other = tmp_path / "out", unet(tmp_path / "other.ckpt")
    assert predict(other, folder / "a.nii.gz", out, "--probabilities") == 0
    assert predict(thresholds, folder / "a.nii.gz", out, "--overwrite") == 0
    assert predict(thresholds, folder / "a.nii.gz", out) == 0
    assert predict(thresholds, folder / "a.nii.gz", out, "--probabilities") == 1
    assert "a_probabilities.nii.gz: is there, made by another program" in capsys.readouterr().err
    assert predict(thresholds, folder / "a.nii.gz", out, "--probabilities", "--overwrite") == 0
    assert (voxels(out / "a_probabilities.nii.gz")[..., 0] > 0.5).sum() < labels_of(hounsfield(0) // 4).size


def test_an_output_that_is_its_input_by_another_name_is_refused(folder, tmp_path, thresholds, capsys):
    (tmp_path / "out").mkdir()
    os.link(folder / "a.nii.gz", tmp_path / "out/a.nii.gz")
    assert predict(thresholds, folder, tmp_path / "out", "--overwrite") == 2
    assert "out/a.nii.gz: is an input" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out/a.nii.gz"]


def test_a_dead_link_in_the_place_of_a_prediction_stays(folder, tmp_path, thresholds, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.nii.gz").symlink_to("/mnt/archive/a.nii.gz")
    assert predict(thresholds, folder, tmp_path / "out") == 1
    assert "out/a.nii.gz: is there, made by another program" in capsys.readouterr().err
    assert (tmp_path / "out/a.nii.gz").is_symlink() and sorted(record(tmp_path / "out")) == ["b", "c"]


def test_the_longest_names_are_written(tmp_path, thresholds):
    name = "ä" * 124  # 248 bytes and .nii.gz
    save(tmp_path / "in" / f"{name}.nii.gz", hounsfield(0))
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.nii.gz", "predictions.json"}


def test_what_could_not_be_put_in_its_place_is_not_recorded_as_done(tmp_path, thresholds, capsys):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in/a.nii", hounsfield(0))
    (tmp_path / "in/a.nii").rename(tmp_path / "in" / f"{'x' * 251}.nii")  # .nii.gz makes it too long
    assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 1
    assert f"{'x' * 251}.nii.gz: File name too long: choose a shorter name" in capsys.readouterr().err
    (entry,) = record(tmp_path / "out").values()
    assert entry["pending"] and [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_a_full_disk_while_the_record_is_written_loses_nothing(folder, tmp_path, thresholds, capsys, monkeypatch):
    out = tmp_path / "out"
    assert predict(unet(tmp_path / "other.ckpt"), folder / "a.nii.gz", out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = Path.write_text

    def full(path, *args, **kwargs):
        if "predictions" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    assert predict(thresholds, folder / "a.nii.gz", out, "--overwrite") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{out}/predictions.json: No space left on device: free some disk space and run the command again"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert predict(thresholds, folder / "b.nii.gz", out) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
