"""dataset.json as people have it: MSD, nnU-Net v1 and v2, MONAI lists; written on other systems and by hand."""

import json
import os
import shutil
from pathlib import Path

import pytest
from raw_cases import LITS, hounsfield, label_of, make, save, volume_of
from test_files import touch
from test_layouts import names, said

from datasets.slices.store import read_manifest
from datasets.volumes.layouts import find_cases

LABELS = {"0": "background", "1": "liver"}


def folder(home: Path, image: str, label: str, cases: str = "abc", **changes) -> Path:
    """Empty files, `{}` in their names the case, and a dataset.json that lists them unless `training` is changed."""
    for case in cases:
        touch(home / image.format(case))
        touch(home / label.format(case))
    listed = [{"image": f"./{image.format(case)}", "label": f"./{label.format(case)}"} for case in cases]
    content = {"modality": {"0": "CT"}, "labels": LABELS, "training": listed} | changes
    content = {key: value for key, value in content.items() if value is not None}
    (home / "dataset.json").write_text(json.dumps(content))
    return home


def rewrite(home: Path, change) -> None:
    file = home / "dataset.json"
    content = change(file.read_text())
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def found(home: Path, channel: int | None = None) -> dict[str, str]:
    """The image of every case, by the path below `home`; nothing else may have been found."""
    raw = find_cases("msd", home, channel)
    assert said(raw) == []
    return {case.case: case.image.relative_to(home).as_posix() for case in raw.cases}


def lines(home: Path, channel: int | None = None) -> list[str]:
    return [str(finding).replace(f"{home}/", "") for finding in find_cases("msd", home, channel).findings]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.replace("./", ".\\\\"),
        lambda text: text.replace(".nii.gz", ""),
        lambda text: text.replace(".nii.gz", ".nii").replace("imagesTr", "ImagesTR"),
    ],
    ids=["utf-8 mark", "utf-16 mark", "utf-16", "backslashes", "no endings", "other endings and capitals"],
)
def test_a_list_is_read_whatever_wrote_it(tmp_path, change):
    rewrite(folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.NII.GZ"), change)
    assert found(tmp_path) == {case: f"imagesTr/{case}.nii.gz" for case in "abc"}


def test_a_list_may_name_files_elsewhere_and_in_bytes_that_are_not_utf8(tmp_path):
    other = os.fsdecode(b"M\xfcnchen")
    home = folder(tmp_path / "task", "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", ["a", other])
    escaped = json.loads((home / "dataset.json").read_text())
    assert set(found(home)) == {"a", other}
    (home / "dataset.json").write_bytes(json.dumps(escaped, ensure_ascii=False).encode(errors="surrogateescape"))
    assert set(found(home)) == {"a", other}  # the very bytes
    listed = [{"image": str(home / "imagesTr/a.nii.gz"), "label": str(home / "labelsTr/a.nii.gz")}]
    away = tmp_path / "away"
    away.mkdir()
    (away / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}, "labels": LABELS, "training": listed}))
    assert [case.image for case in find_cases("msd", away).cases] == [home / "imagesTr/a.nii.gz"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{\n  "labels": {"0": "a"}, // all\n}', "line 2 column 25: Expecting property name enclosed in double quotes"),
        ('{"labels": {"1": "a"},\n}', "line 2 column 1: "),
        ("", "is empty: copy or download it again"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a pointer of git-lfs"),
        ("[1]", "holds a list, not an object"),
        ('{"training": []}', "has no labels"),
        ('{"labels": {"1": "a", "1": "b"}}', "'1' is given twice in one place"),
        ('{"labels": ["a", "b"]}', "labels is a list"),
        ('{"labels": {"a": "b"}}', "labels: 'a': 'b' has no value"),
        ('{"labels": {"a": 1, "b": 1}}', "labels: 1 is both 'a' and 'b'"),
        ('{"labels": {"0": "a"}}', "labels: names no value above 0"),
        ('{"labels": {"1": "a"}, "training": {}}', "training is a dict, not a list"),
        ('{"labels": {"1": "a"}, "file_ending": ".png"}', "file_ending '.png': only .nii and .nii.gz are read"),
        ('{"labels": {"1": "a"}}', "lists no training cases, and no labels lie in labelsTr"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_the_reason(tmp_path, capsys, content, what):
    (tmp_path / "dataset.json").write_text(content)
    assert make(tmp_path, tmp_path / "out", dataset="msd") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"SliceMaker: {tmp_path / 'dataset.json'}: {what}") and error.count("\n") == 1


def test_nnunet_v2_is_read_with_a_file_per_channel(tmp_path):
    changes = {
        "modality": None,
        "training": None,
        "labels": {"background": 0, "liver": 1, "tumor": 2},
        "file_ending": ".nii.gz",
        "numTraining": 3,
    }
    home = folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", channel_names={"0": "CT"}, **changes)
    assert found(home) == {case: f"imagesTr/{case}_0000.nii.gz" for case in "abc"}
    assert find_cases("msd", home).labels == {1: "liver", 2: "tumor"} and find_cases("msd", home).modality == "CT"
    folder(tmp_path, "imagesTr/{}_0001.nii.gz", "labelsTr/{}.nii.gz", channel_names={"0": "PET", "1": "CT"}, **changes)
    assert found(home, 1) == {case: f"imagesTr/{case}_0001.nii.gz" for case in "abc"}
    assert find_cases("msd", home, 1).modality == "CT" and find_cases("msd", home, 0).modality == "MR"
    assert lines(home) == [
        f"imagesTr/{case}_0000.nii.gz: has channels 0, 1, a file each: choose one with --channel: 0, 1"
        for case in "abc"
    ]
    assert "has no channel 2, a file each: choose one with --channel: 0, 1" in lines(home, 2)[0]
    touch(tmp_path / "imagesTr/d_0000.nii.gz")
    touch(tmp_path / "labelsTr/e.nii.gz")
    touch(tmp_path / "imagesTs/f_0000.nii.gz")
    assert lines(home, 0) == [
        "imagesTr/e.nii.gz: missing, the image of labelsTr/e.nii.gz: add it, or move the label away",
        "imagesTr/d_0000.nii.gz: has no label in labelsTr: add it, or move the image to imagesTs",
        "dataset.json: numTraining is 3, but labelsTr holds 4 labels: see which are absent",
    ]
    assert find_cases("msd", home, 0).passed_over.endswith("passed over: 2 by place (such as imagesTr/d_0000.nii.gz)")


def test_the_file_of_a_channel_is_sliced(tmp_path):
    for number in range(2):
        save(tmp_path / f"raw/imagesTr/a_000{number}.nii.gz", hounsfield(number), LITS)
    save(tmp_path / "raw/labelsTr/a.nii.gz", label_of(), LITS)
    content = {"channel_names": {"0": "PET", "1": "CT"}, "labels": {"background": 0, "liver": 1, "tumor": 2}}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(content))
    assert make(tmp_path / "raw", tmp_path / "out", "--channel", "1", dataset="msd") == 0
    assert (volume_of(tmp_path / "out", "a")[0] == hounsfield(1)).all()
    assert read_manifest(tmp_path / "out")["modality"] == "CT"


@pytest.mark.parametrize("listed", [True, False])
def test_nnunet_v1_lists_images_without_the_number_of_the_channel(tmp_path, listed):
    home = folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", training=None)
    if listed:
        entries = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "abc"]
        folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", training=entries)
    assert found(home) == {case: f"imagesTr/{case}_0000.nii.gz" for case in "abc"}


@pytest.mark.parametrize("image", ["imagesTr/{}.nii.gz", "imagesTr/{}_0000.nii.gz"])
@pytest.mark.parametrize("training", [None, "listed"])
def test_a_case_may_itself_be_named_as_a_channel(tmp_path, image, training):
    changes = {} if training else {"training": None}
    home = folder(tmp_path, image, "labelsTr/{}.nii.gz", ["a", "a_0000", "b_4d"], **changes)
    assert found(home) == {case: image.format(case) for case in ("a", "a_0000", "b_4d")}


def test_the_newer_list_of_nnunet_and_lists_of_strings_are_read(tmp_path):
    home = folder(
        tmp_path,
        "imagesTr/{}.nii.gz",
        "labelsTr/{}.nii.gz",
        training=["./imagesTr/a.nii.gz", "b", ["imagesTr/c.nii.gz", "labelsTr/c.nii.gz"]],
    )
    assert found(home) == {case: f"imagesTr/{case}.nii.gz" for case in "abc"}
    sets = {"a": {"images": ["pet/a_p.nii.gz", "ct/a_c.nii.gz"], "label": "label/a.nii.gz"}}
    touch(tmp_path / "new/label/a.nii.gz")
    home = folder(
        tmp_path / "new",
        "ct/{}_c.nii.gz",
        "pet/{}_p.nii.gz",
        "a",
        training=None,
        dataset=sets,
        modality={"0": "PET", "1": "CT"},
    )
    assert found(home, 1) == {"a": "ct/a_c.nii.gz"} and found(home, 0) == {"a": "pet/a_p.nii.gz"}


def test_equal_names_in_folders_go_by_their_folders_and_only_the_same_file_is_listed_twice(tmp_path):
    home = folder(tmp_path, "{}/image.nii.gz", "{}/label.nii.gz")
    assert found(home) == {case: f"{case}/image.nii.gz" for case in "abc"}
    rewrite(home, lambda text: text.replace("./b/image", "x/../a/image"))
    assert "a/image.nii.gz: listed twice in dataset.json, with the labels" in lines(home)[0].replace("x/../", "")
    entries = [
        {"image": f"{site}/{case}.nii.gz", "label": f"{site}/{case}_seg.nii.gz"} for site in "st" for case in "ab"
    ]
    for site in "st":
        folder(home, site + "/{}.nii.gz", site + "/{}_seg.nii.gz", "ab", training=[*entries, entries[0]])
    raw = find_cases("msd", home)
    assert names(raw) == ["s_a", "s_b", "t_a", "t_b"] and len({case.patient for case in raw.cases}) == 4
    assert said(raw) == [("s/a.nii.gz", "listed twice in dataset.json", True)]


def test_what_is_listed_and_not_there_is_missing_with_the_remedy(tmp_path):
    entries = [
        {"image": "C:\\data\\imagesTr\\b.nii.gz", "label": "labelsTr/b.nii.gz"},
        {"image": "imagesTr/x.nii.gz", "label": "labelsTr/a.nii.gz"},
        {"image": "imagesTr/c.nii.gz"},
        {"image": "c", "label": ["c", "d"]},
        7,
    ]
    home = folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", training=entries)
    (tmp_path / "labelsTr/c.nii.gz").unlink()
    entry = 'write {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}'
    assert lines(home) == [
        "dataset.json: training[2] is {'image': 'imagesTr/c.nii.gz'}: image and label are not both named: " + entry,
        "dataset.json: training[3] is {'image': 'c', 'label': ['c', 'd']}: image and label are not both named: "
        + entry,
        "dataset.json: training[4] is 7: image and label are not both named: " + entry,
        "C:/data/imagesTr/b.nii.gz: missing, though dataset.json names it (training[0]): "
        "correct the path in dataset.json (imagesTr/b.nii.gz has this name)",
        "imagesTr/x.nii.gz: missing, though dataset.json names it (training[1]): "
        "copy or download it again, or correct dataset.json",
    ]


def test_what_lies_there_unlisted_is_named(tmp_path):
    home = folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", "abcdef")
    validation = [{"image": "imagesTr/f.nii.gz", "label": "labelsTr/f.nii.gz"}]
    folder(home, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", "abcd", validation=validation, test=["imagesTs/g.nii.gz"])
    touch(home / "imagesTr/._a.nii.gz")
    assert lines(home) == [
        "dataset.json: validation lists 1 cases with labels, which are not read: list them under training and give the "
        "splits with --split_file, if they are meant to be used",
        "dataset.json: does not list 2 cases that lie in imagesTr and labelsTr, such as e.nii.gz: "
        "add them to training, if they are meant to be used",
    ]
    assert find_cases("msd", home).passed_over == (
        f"{home}: passed over: 1 by hidden name (._a.nii.gz), "
        "4 by absence from the training list (such as imagesTr/e.nii.gz)"
    )


def test_a_dead_link_is_reported_once_and_a_list_that_is_one_ends_the_command(tmp_path, capsys):
    home = folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz")
    (home / "imagesTr/b.nii.gz").unlink()
    (home / "imagesTr/b.nii.gz").symlink_to("nowhere")
    assert names(find_cases("msd", home)) == ["a", "c"] and len(lines(home)) == 1
    (home / "dataset.json").unlink()
    (home / "dataset.json").symlink_to("nowhere")
    with pytest.raises(ValueError, match="is a link to nowhere, which is not there"):
        find_cases("msd", home)


def test_regions_name_values_by_the_smallest_and_large_values_are_refused(tmp_path):
    regions = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    home = folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", labels=regions)
    raw = find_cases("msd", home)
    assert raw.labels == {1: "whole tumor", 2: "core", 3: "enhancing", 4: "ignore"} and names(raw) == ["a", "b", "c"]
    whats = [finding.what for finding in raw.findings]
    assert len(whats) == 2 and whats[0].startswith("labels are regions ('whole tumor' and others): a value goes by")
    assert whats[1].startswith("label 4 is named ignore, but is stored and trained on")
    folder(home, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", labels={"1": "liver", "5": "tumor", "1010": "left"})
    assert find_cases("msd", home).labels == {1: "liver", 5: "tumor"}
    assert lines(home) == [
        "dataset.json: label 1010 (left) is above 255, the largest value that a store keeps: "
        "map the labels to 1..255, in the label files and here"
    ]


def test_the_modality_of_a_normalization_is_open_until_the_list_says_it(tmp_path):
    changes = {"training": None, "channel_names": {"0": "noNorm"}}
    home = folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", modality=None, **changes)
    raw = find_cases("msd", home)
    assert raw.modality == "MR" and [finding.bad for finding in raw.findings] == [False]
    folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", modality={"0": "CT"}, **changes)  # the remedy
    assert found(home) and find_cases("msd", home).modality == "CT"


def test_hidden_files_are_not_cases_even_where_a_list_names_them(tmp_path):
    home = folder(tmp_path, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", ["a", "._a"])
    raw = find_cases("msd", home)
    assert names(raw) == ["a"] and [finding.bad for finding in raw.findings] == [False]
    assert "names a hidden file (training[1]: ./imagesTr/._a.nii.gz)" in raw.findings[0].what


def test_what_may_not_be_read_is_not_called_absent(tmp_path):
    home = folder(tmp_path, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", training=None)
    for file in (tmp_path / "labelsTr").iterdir():
        file.unlink()
        file.symlink_to("nowhere")
    raw = find_cases("msd", home)
    what = "is a link to nowhere, which is not there"
    assert raw.cases == [] and [finding.what for finding in raw.findings] == 3 * [what]
    shutil.rmtree(tmp_path / "labelsTr")
    (tmp_path / "labelsTr").symlink_to("nowhere")
    raw = find_cases("msd", home)
    assert raw.cases == [] and [finding.what for finding in raw.findings] == [what]
