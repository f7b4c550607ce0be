"""A store lists what lies in it whole, and wrong flags are refused before anything is written."""

from pathlib import Path

import pytest
from raw_cases import cases_of, contents, kits_case, make


@pytest.fixture
def kits(tmp_path) -> Path:
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("name", "harm"),
    [("0002.npz", Path.unlink), ("0002.npz", lambda file: file.write_bytes(b"")), ("geometry.json", Path.unlink)],
)
def test_a_case_that_lost_a_file_is_sliced_again_and_never_listed_without_it(kits, tmp_path, name, harm, capsys):
    out = tmp_path / "out"
    assert make(kits, out) == 0
    whole = contents(out)
    harm(out / "case_00001" / name)
    assert make(kits, out, "--shard", "0/2") == 0  # case_00000 and case_00002
    said = capsys.readouterr().out
    assert "no longer lists case_00001 (slices are absent or cut short)" in said
    assert "0 bad; 1 of other shards not sliced yet" in said
    assert cases_of(out) == ["case_00000", "case_00002", "case_00003"]
    assert make(kits, out) == 0
    assert "1 sliced now, 3 kept" in capsys.readouterr().out and contents(out) == whole


def test_a_case_folder_that_was_renamed_is_named(kits, tmp_path, capsys):
    assert make(kits, tmp_path / "out") == 0
    (tmp_path / "out/case_00001").rename(tmp_path / "out/case_00001_old")
    assert make(kits, tmp_path / "out") == 0
    what = "no longer lists case_00001_old (case.json is damaged, or of a case of another name)"
    assert what in capsys.readouterr().out and len(cases_of(tmp_path / "out")) == 4


@pytest.mark.parametrize("place", [Path.mkdir, lambda file: file.symlink_to("nowhere")])
def test_a_folder_or_a_dead_link_in_the_place_of_the_index_is_refused_before_any_work(kits, tmp_path, place, capsys):
    (tmp_path / "out").mkdir()
    place(tmp_path / "out/index.csv")
    assert make(kits, tmp_path / "out") == 2
    assert "index.csv: was not made by SliceMaker: move it away" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.csv"]


@pytest.mark.parametrize(
    ("flags", "what"),
    [(("--split", "nan", "0.5", "0.5"), "--split nan 0.5 0.5: give"), (("--jobs", "0"), "--jobs 0: give 1 or more")],
)
def test_numbers_that_cannot_be_meant_are_refused(kits, tmp_path, flags, what, capsys):
    assert make(kits, tmp_path / "out", *flags) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()
