"""Overlap and surface scores against values worked by hand, brute force, MONAI and frozen numbers of other programs."""

import numpy as np
import pytest
import torch
from label_volumes import ISOTROPIC, SPACING, random_pair, score, volume, voxels
from scipy import ndimage
from scipy.spatial.distance import cdist

from utils.evaluation.metrics import VolumeDice
from utils.evaluation.volumes import surfaces
from utils.evaluation.volumes.scores import EMPTY_MASK_RULES, HIGHER_IS_BETTER, Region, summarize
from utils.evaluation.volumes.surfaces import surface, surface_dice, surface_distances, surfel_areas


def both(prediction, target, spacing=ISOTROPIC, tolerance=1.0):
    """Surface Dice, HD95 and ASSD of two volumes with label 1."""
    surfaces = [surface(labels > 0) for labels in (prediction, target)]
    dice = surface_dice(*surfaces, spacing, surfel_areas(spacing), tolerance)
    return (dice, *surface_distances(*surfaces, spacing))


def monai(prediction, target, spacing, tolerance):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(labels)[None, None] for labels in (prediction, target)]
    shared = {"include_background": True, "spacing": spacing}
    dice = compute_surface_dice(*pair, class_thresholds=[tolerance], use_subvoxels=True, **shared)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **shared)
    assd = compute_average_surface_distance(*pair, symmetric=True, **shared)
    return tuple(float(value) for value in (dice, hd95, assd))


# ---- surfaces


@pytest.mark.parametrize("smooth", [0, 1.5])
@pytest.mark.parametrize("spacing", [ISOTROPIC, SPACING])
@pytest.mark.parametrize("seed", range(3))
def test_surfaces_are_those_of_monai(smooth, spacing, seed):
    prediction, target = random_pair(seed, smooth)
    assert both(prediction, target, spacing, 1.1) == pytest.approx(monai(prediction, target, spacing, 1.1), abs=1e-5)


# Google DeepMind's surface-distance 0.1 on random_pair(seed, smooth), spacing (2.5, 0.8, 0.7), tolerance 0.75 mm
DEEPMIND = {
    (0, 0): 0.9918259083057127,
    (0, 1.5): 0.8577777929036788,
    (1, 0): 0.9938014783148843,
    (1, 1.5): 0.8560877343025347,
}


@pytest.mark.parametrize(("case", "expected"), DEEPMIND.items())
def test_surface_dice_is_that_of_deepmind_to_a_millionth(case, expected):
    assert both(*random_pair(*case), SPACING, 0.75)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_surface_dice_is_deepminds_program_where_it_is_installed(seed):
    metrics = pytest.importorskip("surface_distance.metrics", reason="surface-distance is not installed")
    for smooth in (0, 1.5):
        prediction, target = random_pair(seed, smooth)
        distances = metrics.compute_surface_distances(target > 0, prediction > 0, SPACING)
        for tolerance in (0.0, 0.75, 2.5):
            expected = metrics.compute_surface_dice_at_tolerance(distances, tolerance)
            assert both(prediction, target, SPACING, tolerance)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_every_pair_of_edge_voxels(seed):
    masks = [labels > 0 for labels in random_pair(seed, 1.5)]
    edges = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * SPACING for mask in masks]
    table = cdist(*edges)
    directed = table.min(1), table.min(0)
    expected = max(np.percentile(part, 95) for part in directed), np.concatenate(directed).mean()
    assert both(*random_pair(seed, 1.5), SPACING)[1:] == pytest.approx(expected)


def test_two_single_voxels_by_hand():
    # 3 rows of 0.8 mm apart: 2.4 mm. Of the 8 corners of each voxel 4 lie 1.6 mm from the other's, 4 lie 2.4 mm away.
    one, other = voxels((4, 2, 5)), voxels((4, 5, 5))
    assert both(one, other, SPACING, 1.5) == (0.0, pytest.approx(2.4), pytest.approx(2.4))
    assert both(one, other, SPACING, 1.7)[0] == pytest.approx(0.5)
    assert both(one, other, SPACING, 2.5)[0] == 1.0


def test_touching_voxels_by_hand():
    # Side by side: 4 of the 8 corners of each are shared, all with a surfel of one size: half of both surfaces at 0 mm.
    assert both(voxels((4, 4, 4)), voxels((4, 4, 5)), tolerance=0.5) == (pytest.approx(0.5), 1.0, 1.0)
    # Face to face at an edge of the volume: beyond it all is outside.
    assert both(voxels((0, 0, 0)), voxels((0, 0, 1)), tolerance=0.5) == (pytest.approx(0.5), 1.0, 1.0)


def test_the_surface_of_a_voxel_by_hand():
    # Marching cubes cuts each of the 8 corners of a 1 mm voxel by a triangle with sides of sqrt(1/2): 8 * sqrt(3) / 8
    found = surface(voxels((0, 0, 0), (7, 8, 9)) > 0)
    assert len(found.edges) == 2
    assert surfel_areas(ISOTROPIC)[found.codes].sum() == pytest.approx(2 * np.sqrt(3))


def test_a_distance_of_exactly_the_tolerance_is_within_it():
    # 0.1 mm voxels: 23 * 0.1 - 13 * 0.1 is 1.0000000000000002, ten steps of 0.1 are 1.0
    one, other = voxels((0, 0, 23), shape=(1, 1, 30)), voxels((0, 0, 13), shape=(1, 1, 30))
    assert both(one, other, (0.1, 0.1, 0.1), 1.0)[0] == 1.0


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_slabs_change_nothing(monkeypatch, planes):
    pair = random_pair(5, 1.0)
    whole = both(*pair, SPACING)
    monkeypatch.setattr(surfaces, "SLAB_VOXELS", planes * 12 * 13)
    assert both(*pair, SPACING) == whole


# ---- empty masks

EMPTY = volume()
FULL = volume((slice(2, 5), slice(2, 5), slice(2, 5)), value=2)
BOTH_EMPTY = {"dice": 1, "surface_dice": 1, "hd95_mm": None, "assd_mm": None, "voe": 0, "abs_rvd": None, "lesion_f1": 1}
ONLY_TARGET = {"dice": 0, "surface_dice": 0, "hd95_mm": None, "assd_mm": None, "voe": 1, "abs_rvd": 1, "lesion_f1": 0}
ONLY_PREDICTION = ONLY_TARGET | {"abs_rvd": None}


@pytest.mark.parametrize(
    ("prediction", "target", "expected", "empty"),
    [
        (EMPTY, EMPTY, BOTH_EMPTY, "both"),
        (EMPTY, FULL, ONLY_TARGET, "prediction"),
        (FULL, EMPTY, ONLY_PREDICTION, "target"),
        (FULL // 2, FULL, ONLY_TARGET, "prediction"),  # another class there is no tumor
    ],
)
def test_empty_masks_score_as_the_written_rules_say(prediction, target, expected, empty):
    row = score(prediction, target)
    assert {name: row[name] for name in expected} == expected
    assert row["empty"] == empty
    assert set(EMPTY_MASK_RULES) == set(HIGHER_IS_BETTER) == set(expected)


def test_means_say_how_many_cases_they_leave_out():
    pairs = {"found": (FULL, FULL), "missed": (EMPTY, FULL), "absent": (EMPTY, EMPTY), "false": (FULL, EMPTY)}
    rows = [{"case": case} | score(*pair) for case, pair in pairs.items()]
    summary = summarize(rows)["tumor"]
    counts = ("cases", "cases_without", "cases_missed", "cases_invented")
    assert [summary[name] for name in counts] == [4, 2, 1, 1]
    assert summary["dice"] == (1 + 0 + 1 + 0) / 4
    assert (summary["hd95_mm"], summary["hd95_mm_cases"]) == (0, 1)
    assert (summary["abs_rvd"], summary["abs_rvd_cases"]) == ((0 + 1) / 2, 2)
    # 2 lesions, one detected, one false: 2 * 1 / (2 + 2)
    assert [summary[key] for key in ("lesions", "lesions_detected", "lesions_missed", "lesions_false")] == [2, 1, 1, 1]
    assert summary["lesion_f1_pooled"] == 0.5
    assert "hd95_mm" not in summarize([rows[1]])["tumor"]


# ---- overlap and volumes


def test_overlap_and_volumes_by_hand():
    # P: 2x2x4 = 16 voxels, G: 2x2x5 = 20, shared 2x2x3 = 12: Dice 24/36, VOE 1 - 12/24, |RVD| |16/20 - 1|
    # a voxel is 2.5 * 0.8 * 0.7 = 1.4 mm3
    prediction = volume(np.s_[2:4, 2:4, 0:4], value=2)
    target = volume(np.s_[2:4, 2:4, 1:6], value=2)
    row = score(prediction, target, SPACING)
    assert row["dice"] == pytest.approx(24 / 36)
    assert row["voe"] == pytest.approx(0.5)
    assert row["abs_rvd"] == pytest.approx(0.2)
    assert (row["prediction_ml"], row["target_ml"]) == (pytest.approx(0.0224), pytest.approx(0.028))
    assert (row["prediction_voxels"], row["target_voxels"], row["intersection_voxels"]) == (16, 20, 12)


def test_overlap_is_that_of_the_metric_of_training():
    generator = np.random.default_rng(3)
    prediction, target = generator.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
    metric = VolumeDice(["kidney", "tumor"])
    logits = torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), 3).movedim(-1, 1).float()
    metric.update(logits, torch.from_numpy(target).long()[:, None], "a")
    for number, row in enumerate(metric.per_case(), start=1):
        ours = score(prediction, target, region=Region(row["class"], (number,), 1.0))
        for key in ("dice", "voe", "abs_rvd", "prediction_voxels", "target_voxels", "intersection_voxels"):
            assert ours[key] == pytest.approx(row[key], abs=1e-12), key


def test_a_region_is_all_of_its_values():
    prediction, target = volume(np.s_[2:4, 2:4, 2:4], value=1), volume(np.s_[2:4, 2:4, 2:4], value=3)
    assert score(prediction, target, region=Region("kidney_and_mass", (1, 2, 3), 1.0))["dice"] == 1
    assert score(prediction, target, region=Region("mass", (2, 3), 1.0))["dice"] == 0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        score(volume(), volume(shape=(8, 9, 11)))


def test_a_stray_voxel_costs_no_volume_of_memory():
    import tracemalloc

    shape = (160, 256, 256)
    target = volume(np.s_[20:60, 50:90, 50:90], shape=shape, value=2)
    prediction = np.roll(target, 2, 1)
    prediction[-1, -1, -1] = 2
    surfel_areas(ISOTROPIC)
    tracemalloc.start()
    score(prediction, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * target.size  # slabs and surfaces; MONAI's functions need 130 bytes a voxel of this box
