"""Scores of label volumes against values worked by hand, brute force, MONAI and frozen numbers of other programs."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from utils.metrics import VolumeDice
from utils.scoring import lesions, surfaces
from utils.scoring.lesions import components, detect, intersection, runs_of
from utils.scoring.surfaces import surface, surface_dice, surface_distances, surfel_areas
from utils.scoring.volumes import EMPTY_MASK_RULES, HIGHER_IS_BETTER, LesionRule, Region, score_volumes, summarize

ISOTROPIC = (1.0, 1.0, 1.0)
SPACING = (2.5, 0.8, 0.7)
TUMOR = Region("tumor", (2,), 1.0)


def volume(*boxes, shape=(8, 9, 10), value=1):
    """Zeros with `value` in every box, a box being three slices."""
    labels = np.zeros(shape, np.uint8)
    for box in boxes:
        labels[box] = value
    return labels


def voxels(*positions, shape=(8, 9, 10), value=1):
    labels = np.zeros(shape, np.uint8)
    for position in positions:
        labels[position] = value
    return labels


def random_pair(seed, smooth, shape=(11, 12, 13)):
    """Two random label volumes: rough, or blobs."""
    generator = np.random.default_rng(seed)
    first, noise = generator.random((2, *shape))
    if smooth:
        first, noise = (ndimage.gaussian_filter(part, smooth) for part in (first, noise))
    second = first + 0.7 * (noise - noise.mean())
    return tuple((part > np.quantile(part, 0.7)).astype(np.uint8) for part in (first, second))


def score(prediction, target, spacing=ISOTROPIC, region=TUMOR, rule=None):
    areas = surfel_areas(spacing)
    return score_volumes(prediction, target, spacing, areas, [region], rule or LesionRule()).rows[0]


def both(prediction, target, spacing=ISOTROPIC, tolerance=1.0):
    """Surface Dice, HD95 and ASSD of two volumes with label 1."""
    surfaces = [surface(labels, (1,)) for labels in (prediction, target)]
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
    found = surface(voxels((0, 0, 0), (7, 8, 9)), (1,))
    assert len(found.edges) == 2
    assert surfel_areas(ISOTROPIC)[found.codes].sum() == pytest.approx(2 * np.sqrt(3))


def test_a_distance_of_exactly_the_tolerance_is_within_it():
    # 0.1 mm voxels: 23 * 0.1 - 13 * 0.1 is 1.0000000000000002, ten steps of 0.1 are 1.0
    one, other = voxels((0, 0, 23), shape=(1, 1, 30)), voxels((0, 0, 13), shape=(1, 1, 30))
    assert both(one, other, (0.1, 0.1, 0.1), 1.0)[0] == 1.0


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_slabs_change_nothing(monkeypatch, planes):
    pair = random_pair(5, 1.0)
    whole = both(*pair, SPACING), detect(*(runs_of(labels, (1,)) for labels in pair))
    monkeypatch.setattr(surfaces, "SLAB_VOXELS", planes * 12 * 13)
    monkeypatch.setattr(lesions, "SLAB_VOXELS", planes * 12 * 13)
    in_slabs = both(*pair, SPACING), detect(*(runs_of(labels, (1,)) for labels in pair))
    assert whole == in_slabs


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


# ---- lesions


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_of_scipy(seed):
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 9, 3)
    labels = (generator.random(shape) < generator.choice([0.1, 0.3, 0.6])).astype(np.uint8) * 2
    runs = runs_of(labels, (2,))
    numbered, count = ndimage.label(labels, np.ones((3, 3, 3)))
    sizes = np.bincount(components(runs), weights=runs.lengths)
    assert len(sizes) == count
    assert sorted(sizes) == sorted(np.bincount(numbered.ravel())[1:])


@pytest.mark.parametrize("step", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1), (0, 1, -1)])
def test_voxels_that_share_a_corner_are_one_lesion(step):
    first = np.array([4, 4, 4])
    assert components(runs_of(voxels(tuple(first), tuple(first + step)), (1,))).max() == 0
    assert components(runs_of(voxels(tuple(first), tuple(first + 2 * np.array(step))), (1,))).max() == 1


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next():
    ends = voxels((3, 4, 9), (3, 5, 0), (3, 8, 5), (4, 0, 5), (7, 8, 9), (0, 0, 0))
    assert components(runs_of(ends, (1,))).max() == 5


def greedy(prediction, target, threshold):
    """Detected, missed, false, from dense volumes: every pair of components, the highest IoU first."""
    (ours, ours_count), (theirs, their_count) = (
        ndimage.label(part, np.ones((3, 3, 3))) for part in (prediction, target)
    )
    pairs = []
    for one in range(1, ours_count + 1):
        for other in range(1, their_count + 1):
            shared = ((ours == one) & (theirs == other)).sum()
            if shared:
                pairs.append((shared / ((ours == one) | (theirs == other)).sum(), other, one))
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    found = []
    for iou, other, one in pairs:
        if iou >= threshold and all(other != known and one != mine for known, mine in found):
            found.append((other, one))
    return len(found), their_count - len(found), ours_count - len(found)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_matches_are_those_of_every_pair_of_components(seed, threshold):
    pair = random_pair(seed, 0.8)
    found = detect(*(runs_of(labels, (1,)) for labels in pair), threshold)
    assert (len(found.matches), found.missed, found.false) == greedy(*pair, threshold)
    one, other = (runs_of(labels, (1,)) for labels in pair)
    assert intersection(one, other) == (pair[0] & pair[1]).sum()


def test_split_and_merged_lesions_by_hand():
    long = volume(np.s_[4, 4, 0:9])
    pieces = volume(np.s_[4, 4, 0:5], np.s_[4, 4, 6:9])
    # IoU 5/9 and 3/9: the larger piece detects, the other is false; the other way round one of two is missed
    split = detect(runs_of(pieces, (1,)), runs_of(long, (1,)))
    assert split.matches == ((0, 0, pytest.approx(5 / 9)),)
    assert (split.missed, split.false, split.f1) == (0, 1, pytest.approx(2 / 3))
    merged = detect(runs_of(long, (1,)), runs_of(pieces, (1,)))
    assert (merged.missed, merged.false, merged.f1) == (1, 0, pytest.approx(2 / 3))
    assert detect(runs_of(pieces, (1,)), runs_of(long, (1,)), iou=0.6).matches == ()


def test_an_overlap_of_exactly_the_threshold_detects():
    # 1 of 10 voxels: IoU 0.1
    one, ten = runs_of(volume(np.s_[0, 0, 0:1]), (1,)), runs_of(volume(np.s_[0, 0, 0:10]), (1,))
    assert len(detect(one, ten, 0.1).matches) == 1
    assert len(detect(one, ten, 0.11).matches) == 0


def test_lesions_have_volumes_and_the_smallest_can_be_left_out():
    target = volume(np.s_[1:3, 1:3, 1:3], np.s_[6, 6, 6], value=2)  # 8 voxels and 1
    prediction = volume(np.s_[1:3, 1:3, 1:3], np.s_[6, 1, 1:3], value=2)  # the same, and 2 elsewhere
    spacing = (10.0, 10.0, 20.0)  # 2 ml
    scores = score_volumes(prediction, target, spacing, surfel_areas(spacing), [TUMOR], LesionRule())
    told = [(row["outcome"], row["target_ml"], row["prediction_ml"], row["iou"]) for row in scores.lesions]
    assert told == [("detected", 16, 16, 1), ("missed", 2, 0, 0), ("false", 0, 4, 0)]
    row = score(prediction, target, spacing, rule=LesionRule(smallest_ml=3.0))
    assert (row["lesions"], row["lesions_missed"], row["lesions_false"]) == (1, 0, 1)
    row = score(prediction, target, spacing, rule=LesionRule(smallest_ml=5.0))
    assert (row["lesions"], row["lesions_missed"], row["lesions_false"], row["lesion_f1"]) == (1, 0, 0, 1)
    assert (row["prediction_ml"], row["target_ml"]) == (20, 18)  # the volumes and Dice are of all voxels


def test_a_component_that_is_too_small_detects_nothing_and_is_not_detected():
    pair, single = np.s_[1, 1, 1:3], np.s_[1, 1, 1:2]
    elsewhere = np.s_[6, 1, 1:4]
    small = runs_of(volume(single, elsewhere), (1,))
    large = runs_of(volume(pair, elsewhere), (1,))
    for prediction, target, counts in ((small, large, (1, 1, 0)), (large, small, (1, 0, 1))):
        found = detect(prediction, target, smallest=2)
        assert (len(found.matches), found.missed, found.false) == counts


@pytest.mark.parametrize(("arguments", "message"), [({"iou": 1.1}, "0 .* to 1"), ({"smallest_ml": -1.0}, "negative")])
def test_lesion_rules_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LesionRule(**arguments)
