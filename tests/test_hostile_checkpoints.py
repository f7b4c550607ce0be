"""Whatever is given to predict.py as a checkpoint, or lies where it writes: one clear line, nothing executed."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from test_hostile_input import content
from tiny_checkpoints import predict, thresholds

__all__ = ["thresholds"]  # a fixture


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("how", ["pickle", "torch", "torch, within a checkpoint", "torch, legacy"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, thresholds, capsys, recwarn, how):
    canary, file = Canary(tmp_path / "sung"), tmp_path / "evil.ckpt"
    if how == "pickle":
        file.write_bytes(pickle.dumps(canary))
    elif how == "torch, within a checkpoint":
        torch.save(torch.load(thresholds, weights_only=True) | {"recipe": canary}, file)
    else:
        torch.save({"weights": canary}, file, _use_new_zipfile_serialization=how == "torch")
    (tmp_path / "a.nii.gz").write_bytes(content())
    assert predict(file, tmp_path / "a.nii.gz", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "evil.ckpt: cannot be read as a checkpoint" in error
    assert not (tmp_path / "sung").exists() and not (tmp_path / "out").exists() and not recwarn.list
    with pytest.raises(Exception):  # noqa: B017  the canary does sing to who loads it carelessly
        pickle.loads(pickle.dumps(canary)), pickle.loads(pickle.dumps(canary))
    assert (tmp_path / "sung").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": {"name": "umet", "num_classes": 3}}, "did you mean 'unet'"),
        ({"network": {"name": "unet", "widths": "many"}}, "unet"),
        ({"weights": {}}, "do not fit its network"),
        ({"preprocessing": {"modality": "CT"}}, "its preprocessing has no"),
        ({"preprocessing": []}, "its preprocessing"),
        ({"recipe": None}, "recipe"),
        ({"weights": None}, "weights"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_one_clear_line(tmp_path, thresholds, capsys, change, said):
    torch.save(torch.load(thresholds, weights_only=True) | change, tmp_path / "x.ckpt")
    (tmp_path / "a.nii.gz").write_bytes(content())
    assert predict(tmp_path / "x.ckpt", tmp_path / "a.nii.gz", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"cases": 3}', '{"cases": {"a": 3}}', "[" * 100_000, "\udcff"])
def test_a_damaged_record_is_left_as_it_is(tmp_path, thresholds, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "a.nii.gz").write_bytes(content())
    assert predict(thresholds, tmp_path / "a.nii.gz", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is damaged" in error
    assert (tmp_path / "out/predictions.json").read_bytes() == text.encode("utf-8", "surrogateescape")
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path, thresholds):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.partial-a.nii.gz").symlink_to(tmp_path / "victim")
    (tmp_path / "a.nii.gz").write_bytes(content())
    assert predict(thresholds, tmp_path / "a.nii.gz", tmp_path / "out") == 0
    assert (tmp_path / "victim").read_text() == "mine"
