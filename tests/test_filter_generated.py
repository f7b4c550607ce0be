"""FilterGenerated: what it reads and names, and what it never replaces."""

import csv
from pathlib import Path

import pytest
import torch
from image_stores import write_image
from tiny_checkpoints import save as save_checkpoint

from networks import NETWORKS
from scripts.skin.FilterGenerated import main


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """20 real and 4 generated images, of which one is a copy and one is damaged, and a classifier."""
    home = tmp_path_factory.mktemp("generated")
    torch.manual_seed(0)
    preprocessing = {"kind": "image", "class_names": ["nv", "mel"], "image_size": 32}
    preprocessing |= {"in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "modality": None}
    section = {"name": "squeezenet", "num_classes": 2}
    save_checkpoint(home / "net.ckpt", section, NETWORKS["squeezenet"](num_classes=2).state_dict(), preprocessing)
    for number in range(20):
        write_image(home / f"real/{number:02d}.PNG", 0, number, side=32)
    for number, seed in enumerate((100, 101, 3)):
        write_image(home / f"made/deep/{number}.png", 0, seed, side=32)
    (home / "made/broken.jpg").write_bytes(b"")
    (home / "made/._a.png").write_bytes(b"x")
    return home


def run(home: Path, out: Path, *flags: str) -> int:
    folders = ["--real", str(home / "real"), "--generated", str(home / "made"), "--outpath", str(out)]
    return main([*folders, "--checkpoint", str(home / "net.ckpt"), "--accelerator", "cpu", *flags])


def test_a_damaged_image_is_named_and_the_rest_is_judged(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(home, out) == 1
    said = capsys.readouterr().out
    assert "broken.jpg: unreadable image (it is empty)" in said and "1 by hidden name (._a.png)" in said
    with (out / "distances.csv").open() as lines:
        verdicts = {row["image"]: row["verdict"] for row in csv.DictReader(lines)}
    assert list(verdicts) == ["deep/0.png", "deep/1.png", "deep/2.png"] and verdicts["deep/2.png"] == "copy"
    kept = {name for name, verdict in verdicts.items() if verdict == "kept"}
    assert {file.relative_to(out / "kept").as_posix() for file in (out / "kept").rglob("*.png")} == kept
    assert run(home, out) == 2 and "pass --overwrite" in capsys.readouterr().err
    (out / "kept/mine.txt").write_text("mine")
    assert run(home, out, "--overwrite") == 2
    assert "kept/mine.txt: is there, and not FilterGenerated's" in capsys.readouterr().err
    (out / "kept/mine.txt").unlink()
    assert run(home, out, "--overwrite", "--list") == 1
    assert set((out / "kept.txt").read_text().split()) == kept and not (out / "kept").exists()


@pytest.mark.parametrize("name", ["kept/a.png", "distances.csv", "sheet.png"])
def test_what_another_program_made_is_never_replaced(home, tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert run(home, tmp_path, "--overwrite") == 2
    assert "is there, and not FilterGenerated's: move it away" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


def test_an_output_among_the_inputs_and_unreadable_images_alone_are_refused(home, tmp_path, capsys):
    assert run(home, home / "made/out") == 2
    assert "lies in the input" in capsys.readouterr().err and not (home / "made/out").exists()
    (tmp_path / "made").mkdir()
    (tmp_path / "made/a.png").write_bytes(b"x")
    (tmp_path / "real").symlink_to(home / "real")
    (tmp_path / "net.ckpt").symlink_to(home / "net.ckpt")
    assert run(tmp_path, tmp_path / "out") == 2
    assert "made: none of its images can be read" in capsys.readouterr().err
