"""Which predicted label file belongs to which label, by the naming of the published layouts."""

import pytest
from raw_cases import LITS, label_of, save

from utils.evaluation.volumes.label_files import case_name
from utils.evaluation.volumes.pairs import find_pairs


@pytest.mark.parametrize(
    ("prediction", "label"),
    [
        ("case_00007.nii.gz", "case_00007/segmentation.nii.gz"),
        ("prediction_00007.nii.gz", "case_00007/segmentation.nii"),
        ("case_00007/prediction.nii.gz", "data/case_00007/aggregated_MAJ_seg.nii.gz"),
        ("test-segmentation-7.nii", "Training_Batch1/segmentation-7.nii"),
        ("volume-7.nii.gz", "segmentation-7.nii"),
        ("patient007_frame01.nii.gz", "patient007/patient007_frame01_gt.nii.gz"),
        ("hippocampus_007.nii.gz", "labelsTr/hippocampus_007.nii.gz"),
        ("fold_0/BRATS_007.nii.gz", "BRATS_007.nii.gz"),
    ],
)
def test_files_are_matched_by_case(tmp_path, prediction, label):
    ours = save(tmp_path / "predictions" / prediction, label_of(), LITS)
    theirs = save(tmp_path / "raw" / label, label_of(), LITS)
    images = [
        "case_00007/imaging.nii.gz",
        "Training_Batch1/volume-7.nii",
        "patient007/patient007_frame01.nii.gz",
        "imagesTr/hippocampus_007.nii.gz",
    ]
    for image in images:
        if image.split("/")[0].replace("images", "labels") in label:
            save(tmp_path / "raw" / image, label_of(), LITS)
    found = find_pairs(tmp_path / "predictions", tmp_path / "raw")
    (pair,) = found.pairs
    assert (pair.prediction, pair.label) == (ours, theirs)
    assert found.findings == [] and all("passed over: 1 by name of an image" in note for note in found.notes)
    assert pair.spacing == pytest.approx((2.5, 0.8, 0.8))
    assert pair.patient == ("patient007" if "patient" in label else case_name(theirs))


def test_two_files_need_no_common_name(tmp_path):
    ours, theirs = save(tmp_path / "a.nii", label_of(), LITS), save(tmp_path / "b.nii.gz", label_of(), LITS)
    (pair,) = find_pairs(ours, theirs).pairs
    assert (pair.case, pair.prediction) == ("b", ours)


def test_a_file_that_is_its_own_label_is_noted(tmp_path):
    save(tmp_path / "labels/a.nii.gz", label_of())
    save(tmp_path / "labels/b.nii.gz", label_of())
    (tmp_path / "link").symlink_to("labels")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/a.nii.gz").symlink_to("../labels/a.nii.gz")
    for predictions, count in (("labels", 2), ("link", 2), ("predictions", 1)):
        found = find_pairs(tmp_path / predictions, tmp_path / "labels")
        assert len(found.pairs) == count and not found.findings
        assert any("is the very file of its label, so it scores as perfect" in note for note in found.notes)


def test_what_lies_in_the_place_of_labels_is_named(tmp_path):
    save(tmp_path / "predictions/a.nii.gz", label_of())
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.nrrd").write_text("x")
    with pytest.raises(ValueError, match=r"no .nii or .nii.gz label file \(passed over: 1 by ending \(1 .nrrd\)\)"):
        find_pairs(tmp_path / "predictions", tmp_path / "labels")
