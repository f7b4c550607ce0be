"""RemoveHair beside what is there already: nothing of another's is replaced, and a killed run goes on the same."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.skin.RemoveHair import main
from tests.image_stores import write_image, write_isic
from utils.skin import hair_removal


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Four images; a bright pixel counts as hair, which is painted black."""
    monkeypatch.setattr(hair_removal, "find_hair", lambda image, contrast: image.max(-1) > 200)
    monkeypatch.setattr(hair_removal, "paint_over", lambda image, hair: image * ~hair[..., None])
    for number, name in enumerate(("nv/a.png", "nv/b.PNG", "mel/c.jfif", "mel/deep/d.webp")):
        image = np.full((24, 40, 3), 20 * number, np.uint8)
        image[2:4, 3:9] = 255
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / name)
    return tmp_path / "in"


def run(tree: Path, *flags: str, out: str = "out") -> int:
    return main(["--inpath", str(tree), "--outpath", str(tree.parent / out), "--jobs", "1", *flags])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_file_of_another_program_is_never_replaced(tree, capsys):
    out = tree.parent / "out"
    write_image(out / "nv/a.png", 0, 5)
    (out / "mel").mkdir()
    (out / "mel/c.jfif").symlink_to(tree / "mel/c.jfif")
    before, sources = (out / "nv/a.png").read_bytes(), contents(tree)
    for flags in ([], ["--overwrite"]):
        assert run(tree, *flags) == 1
        said = capsys.readouterr().out
        assert f"{out / 'nv/a.png'}: is there, and not RemoveHair's: move it away" in said
        assert f"{out / 'mel/c.jfif'}: is there, and not RemoveHair's: move it away" in said
        assert (out / "nv/a.png").read_bytes() == before and contents(tree) == sources
    assert sorted(contents(out)) == ["mel/c.jfif", "mel/deep/d.webp", "nv/a.png", "nv/b.PNG"]


@pytest.mark.parametrize("name", ["out_hair.csv", "out_hair.png"])
def test_a_table_or_sheet_of_another_program_is_refused(tree, capsys, name):
    (tree.parent / name).write_text("mine,too\n1,2\n")
    assert run(tree) == 2
    assert "not RemoveHair's" in capsys.readouterr().err
    assert (tree.parent / name).read_text() == "mine,too\n1,2\n" and not (tree.parent / "out").exists()


@pytest.mark.parametrize("after", range(4))
def test_a_killed_run_goes_on_to_the_same_files(tree, monkeypatch, after):
    assert run(tree, out="whole") == 0
    record, recorded = hair_removal.HairTable.record, []

    def killed(table, name, *row):
        if len(recorded) == after:
            raise SystemExit(137)
        record(table, name, *row)
        recorded.append(name)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(hair_removal.HairTable, "record", killed)
        run(tree)
    (tree.parent / "out_hair.csv").open("a").write("mel/deep/d.we")  # a line that was being written
    assert run(tree) == 0
    assert contents(tree.parent / "out") == contents(tree.parent / "whole")
    assert (tree.parent / "out_hair.csv").read_bytes() == (tree.parent / "whole_hair.csv").read_bytes()


def test_an_image_that_changed_is_treated_again_and_one_that_is_gone_is_named(tree, capsys):
    assert run(tree) == 0
    write_image(tree / "nv/a.png", 0, 7, side=30)
    (tree / "mel/deep/d.webp").unlink()
    capsys.readouterr()
    assert run(tree) == 1
    said = capsys.readouterr().out
    assert "3 (1 treated now, 2 kept, 1 bad)" in said
    gone = tree.parent / "out/mel/deep/d.webp"
    assert f"{gone}: was made of an image that IN holds no longer: remove it" in said and gone.exists()
    assert Image.open(tree.parent / "out/nv/a.png").size == (30, 30)
    gone.unlink()
    assert run(tree) == 0


def test_a_turned_image_comes_out_upright_and_is_turned_once(tree):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, source in (("turned.png", "nv/a.png"), ("bald.png", None)):
        upright = Image.open(tree / source) if source else Image.new("RGB", (40, 24), (9, 9, 9))
        upright.transpose(Image.Transpose.ROTATE_90).save(tree / name, exif=exif.tobytes())
    assert run(tree) == 0
    out = tree.parent / "out"
    assert np.array_equal(hair_removal.decode(out / "turned.png", "x"), hair_removal.decode(out / "nv/a.png", "x"))
    assert Image.open(out / "turned.png").size == (40, 24) and not Image.open(out / "turned.png").getexif()
    assert (out / "bald.png").read_bytes() == (tree / "bald.png").read_bytes()


def test_what_is_passed_over_or_cannot_be_reached_is_named(tree, capsys):
    for name in ("nv/._a.png", "nv/scan.heic", "nv/zero.png"):
        (tree / name).write_bytes(b"")
    (tree / "nv/gone.png").symlink_to(tree / "annex")
    Image.new("RGB", (40, 24)).save(tree / os.fsdecode(b"nv/m\xe9l.png"))
    assert run(tree) == 1
    said = capsys.readouterr().out
    assert "note: " in said and "1 by hidden name (._a.png), 1 by ending (1 .heic)" in said
    assert "gone.png: is a link to" in said and "zero.png: unreadable image (it is empty)" in said
    assert "5 (5 treated now, 0 kept, 2 bad)" in said
    assert (tree.parent / "out" / os.fsdecode(b"nv/m\xe9l.png")).is_file()
    assert run(tree) == 1
    assert "5 (0 treated now, 5 kept, 2 bad)" in capsys.readouterr().out


def test_other_metadata_are_not_mixed(tmp_path, capsys):
    source = write_isic(tmp_path / "in", patients=2, lesions=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train-metadata.csv").write_text("isic_id\n")
    assert run(source) == 2
    assert "train-metadata.csv: differs from" in capsys.readouterr().err
    (tmp_path / "out/train-metadata.csv").unlink()
    assert run(source) == 0
    assert contents(tmp_path / "out")["train-metadata.csv"] == (source / "train-metadata.csv").read_bytes()
