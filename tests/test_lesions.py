"""Lesions: components, what detects what, against scipy, brute force and values worked by hand."""

import numpy as np
import pytest
from label_volumes import TUMOR, random_pair, score, volume, voxels
from scipy import ndimage

from utils.evaluation.volumes.lesions import components, detect, intersection, runs_of
from utils.evaluation.volumes.scores import LesionRule, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas


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
    scores = score_volumes(
        prediction, target, spacing, np.prod(spacing) / 1000, surfel_areas(spacing), [TUMOR], LesionRule()
    )
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
