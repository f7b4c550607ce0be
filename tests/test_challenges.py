"""The challenges' numbers; on real KiTS19 labels those of the official program, frozen here."""

import numpy as np
import pytest
from scipy import ndimage

from datasets.volumes.nifti import read_header
from datasets.volumes.reading import read_label
from utils.evaluation.volumes.challenges import OFFICIAL, official_scores
from utils.evaluation.volumes.scores import LesionRule, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas
from utils.recipe.schema import ROOT

LABELS = ROOT.parent / "shared" / "data" / "kits19_labels"


def eroded(labels):
    """Every region smaller by a voxel."""
    return np.where(ndimage.binary_erosion(labels > 0), labels, 0)


def shifted(labels):
    return np.roll(labels, (3, -2, 1), (0, 1, 2))


def emptied(labels):
    """No tumor found, the kidney whole."""
    return np.minimum(labels, 1)


def without_cyst(labels):
    """The cysts taken for kidney."""
    return np.where(labels == 3, 1, labels)


CHANGES = {"eroded": eroded, "shifted": shifted, "emptied": emptied, "without cyst": without_cyst}


def real_labels(case):
    """Labels of a KiTS19 case in file order and their spacing; a part of the tumor of case_00030 becomes a cyst."""
    file = LABELS / case / "segmentation.nii.gz"
    if not file.is_file():
        pytest.skip("no real labels at ../shared/data/kits19_labels")
    labels = read_label(file).array
    if case == "case_00030":
        part = labels[:355]
        part[part == 2] = 3
    return labels, read_header(file).spacing[::-1]


def rows_of(prediction, target, spacing, challenge, case="a"):
    regions = OFFICIAL[challenge].regions
    scores = score_volumes(
        prediction, target, spacing, np.prod(spacing) / 1000, surfel_areas(spacing), regions, LesionRule()
    )
    return [{"case": case, **row} for row in scores.rows]


# Dice and surface Dice of kits23/evaluation/metrics.py's rule with surface-distance 0.1, on these files so changed
KITS23 = {
    ("case_00021", "eroded"): [
        (0.8339800866667018, 0.5548101513235799),
        (0.816050114280877, 0.6217616868304376),
        (0.816050114280877, 0.6217616868304376),
    ],
    ("case_00021", "shifted"): [
        (0.8420258834791875, 0.4875169583048678),
        (0.7627627627627628, 0.43155564547682385),
        (0.7627627627627628, 0.43155564547682385),
    ],
    ("case_00021", "emptied"): [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)],
    ("case_00087", "eroded"): [
        (0.8756557264282424, 0.5966518520664122),
        (0.8925355979822489, 0.7734798934002867),
        (0.8925355979822489, 0.7734798934002867),
    ],
    ("case_00087", "shifted"): [
        (0.8912586649926317, 0.5624901076326034),
        (0.7874192804428044, 0.4876394343312369),
        (0.7874192804428044, 0.4876394343312369),
    ],
    ("case_00087", "emptied"): [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)],
    ("case_00030", "eroded"): [
        (0.9340138596516615, 0.5818508654631357),
        (0.9441274557536173, 0.5994267568316409),
        (0.9427587371963055, 0.682762508741474),
    ],
    ("case_00030", "without cyst"): [(1.0, 1.0), (0.7170413532911589, 0.6287963950680997), (1.0, 1.0)],
}


@pytest.mark.parametrize(("case", "change"), KITS23)
def test_kits23_numbers_of_real_labels_are_those_of_the_official_program(case, change):
    target, spacing = real_labels(case)
    rows = rows_of(CHANGES[change](target), target, spacing, "kits23")
    for row, expected in zip(rows, KITS23[case, change], strict=True):
        assert (row["dice"], row["surface_dice"]) == pytest.approx(expected, abs=1e-6), row["class"]


@pytest.mark.parametrize("case", ["case_00021", "case_00030", "case_00045", "case_00051", "case_00087", "case_00090"])
def test_they_are_those_of_deepminds_program_where_it_is_installed(case):
    metrics = pytest.importorskip("surface_distance.metrics", reason="surface-distance is not installed")
    target, spacing = real_labels(case)
    for change in CHANGES.values():
        prediction = change(target)
        for region, row in zip(OFFICIAL["kits23"].regions, rows_of(prediction, target, spacing, "kits23"), strict=True):
            ours, theirs = (np.isin(labels, region.values) for labels in (prediction, target))
            dice = surface = float(not (ours.any() or theirs.any()))
            if ours.any() or theirs.any():
                dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
            if ours.any() and theirs.any():
                distances = metrics.compute_surface_distances(theirs, ours, spacing)
                surface = metrics.compute_surface_dice_at_tolerance(distances, region.tolerance_mm)
            assert (row["dice"], row["surface_dice"]) == pytest.approx((dice, surface), abs=1e-6)


def test_an_invented_tumor_scores_zero_and_a_missing_one_that_is_not_found_one():
    kidney = np.zeros((8, 8, 8), np.uint8)
    kidney[2:6, 2:6, 2:6] = 1
    tumor = kidney.copy()
    tumor[3, 3, 3] = 2
    invented = {
        row["class"]: (row["dice"], row["surface_dice"]) for row in rows_of(tumor, kidney, (1.0,) * 3, "kits21")
    }
    assert invented == {"kidney_and_mass": (1, 1), "mass": (0, 0), "tumor": (0, 0)}
    right = {row["class"]: (row["dice"], row["surface_dice"]) for row in rows_of(kidney, kidney, (1.0,) * 3, "kits21")}
    assert right == dict.fromkeys(right, (1, 1))


def test_classes_and_tolerances_are_the_pinned_ones():
    expected = {
        "kidney_and_mass": ((1, 2, 3), 1.0330772532390826),
        "mass": ((2, 3), 1.1328796488598762),
        "tumor": ((2,), 1.1498198361434828),
    }
    for challenge in ("kits21", "kits23"):
        found = {region.name: (region.values, region.tolerance_mm) for region in OFFICIAL[challenge].regions}
        assert found == expected


def test_kits_means_over_cases_then_over_classes():
    values = {("a", "kidney_and_mass"): (0.9, 0.8), ("a", "mass"): (0.5, 0.4), ("a", "tumor"): (0.3, 0.2)}
    values |= {("b", "kidney_and_mass"): (0.7, 0.6), ("b", "mass"): (0.1, 0.0), ("b", "tumor"): (0.1, 0.0)}
    rows = [
        {"case": case, "class": name, "dice": dice, "surface_dice": surface}
        for (case, name), (dice, surface) in values.items()
    ]
    scores = official_scores("kits23", rows)
    assert scores["dice/kidney_and_mass"] == pytest.approx(0.8)
    assert scores["surface_dice/mass"] == pytest.approx(0.2)
    assert scores["dice"] == pytest.approx((0.8 + 0.3 + 0.2) / 3)
    assert scores["surface_dice"] == pytest.approx((0.7 + 0.2 + 0.1) / 3)


def test_kits19_is_dice_of_labels_above_0_and_above_1():
    generator = np.random.default_rng(0)
    prediction, target = generator.integers(0, 3, (2, 6, 7, 8)).astype(np.uint8)
    scores = official_scores("kits19", rows_of(prediction, target, (1.0,) * 3, "kits19"))
    for name, least in (("kidney_and_tumor", 0), ("tumor", 1)):
        ours, theirs = prediction > least, target > least
        assert scores[f"dice/{name}"] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
    assert scores["dice"] == pytest.approx((scores["dice/kidney_and_tumor"] + scores["dice/tumor"]) / 2)
    assert not any("surface" in name for name in scores)


def line(*values):
    return np.array(values, np.uint8)[None, None]


def test_lits_dice_per_case_and_global_by_hand():
    # case a: liver P 4, G 4, shared 4 (tumor counts as liver); tumor P 1, G 2, shared 1
    # case b: liver P 3, G 2, shared 2; no tumor in either: 1 per case, no voxel in the global sum
    rows = rows_of(line(1, 1, 1, 2, 0), line(1, 1, 2, 2, 0), (1.0,) * 3, "lits", "a")
    rows += rows_of(line(1, 1, 1, 0, 0), line(1, 1, 0, 0, 0), (1.0,) * 3, "lits", "b")
    assert official_scores("lits", rows) == {
        "dice_per_case/liver": pytest.approx((1 + 4 / 5) / 2),
        "dice_global/liver": pytest.approx(2 * (4 + 2) / (8 + 5)),
        "dice_per_case/tumor": pytest.approx((2 / 3 + 1) / 2),
        "dice_global/tumor": pytest.approx(2 / 3),
    }


def test_lits_takes_a_prediction_of_tumor_alone_as_no_liver():
    # the liver is then not predicted: 0 per case; global 2 * 2 / (2 + 2 + 3): of case a only the target's 3 voxels
    rows = rows_of(line(2, 2, 0), line(1, 2, 2), (1.0,) * 3, "lits", "a")
    rows += rows_of(line(1, 1, 0), line(1, 1, 0), (1.0,) * 3, "lits", "b")
    scores = official_scores("lits", rows)
    assert scores["dice_per_case/liver"] == pytest.approx((0 + 1) / 2)
    assert scores["dice_global/liver"] == pytest.approx(4 / 7)
    assert scores["dice_per_case/tumor"] == pytest.approx((2 * 1 / 4 + 1) / 2)


def test_one_voxel_and_touching_masks():
    one, next_to_it = np.zeros((2, 4, 4, 4), np.uint8)
    one[1, 1, 1] = next_to_it[1, 1, 2] = 2
    same = rows_of(one, one, (1.0,) * 3, "kits23")
    assert all((row["dice"], row["surface_dice"], row["hd95_mm"]) == (1, 1, 0) for row in same)
    # 1 mm apart: no shared voxel, but every corner of the one has one of the other within 1 mm
    touching = rows_of(one, next_to_it, (1.0,) * 3, "kits23")
    assert all((row["dice"], row["surface_dice"], row["hd95_mm"]) == (0, 1, 1) for row in touching)
    # 2 mm voxels: half of the corners are shared, the others are 2 mm away
    apart = rows_of(one, next_to_it, (2.0,) * 3, "kits23")
    assert [row["surface_dice"] for row in apart] == pytest.approx([0.5] * 3)
