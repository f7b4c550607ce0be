"""Lesions: components, what detects what, against scipy, brute force and values worked by hand."""

import numpy as np
import pytest
from label_volumes import TUMOR, random_pair, score, volume, voxels
from scipy import ndimage

from utils.evaluation.volumes.components import components
from utils.evaluation.volumes.lesions import detect
from utils.evaluation.volumes.scores import LesionRule, score_volumes
from utils.evaluation.volumes.surfaces import surfel_areas


@pytest.mark.parametrize("step", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1), (0, 1, -1)])
def test_voxels_that_share_a_corner_are_one_lesion(step):
    first = np.array([4, 4, 4])
    near, far = (voxels(tuple(first), tuple(first + distance * np.array(step))) > 0 for distance in (1, 2))
    assert [components(mask)[1].tolist() for mask in (near, far)] == [[2], [1, 1]]


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
    found = detect(*(labels > 0 for labels in pair), threshold)
    assert (len(found.matches), found.missed, found.false) == greedy(*pair, threshold)


def test_split_and_merged_lesions_by_hand():
    long = volume(np.s_[4, 4, 0:9]) > 0
    pieces = volume(np.s_[4, 4, 0:5], np.s_[4, 4, 6:9]) > 0
    # IoU 5/9 and 3/9: the larger piece detects, the other is false; the other way round one of two is missed
    split = detect(pieces, long)
    assert split.matches == ((0, 0, pytest.approx(5 / 9)),)
    assert (split.missed, split.false, split.f1) == (0, 1, pytest.approx(2 / 3))
    merged = detect(long, pieces)
    assert (merged.missed, merged.false, merged.f1) == (1, 0, pytest.approx(2 / 3))
    assert detect(pieces, long, iou=0.6).matches == ()


def test_an_overlap_of_exactly_the_threshold_detects():
    # 1 of 10 voxels: IoU 0.1
    one, ten = volume(np.s_[0, 0, 0:1]) > 0, volume(np.s_[0, 0, 0:10]) > 0
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
    small = volume(single, elsewhere) > 0
    large = volume(pair, elsewhere) > 0
    for prediction, target, counts in ((small, large, (1, 1, 0)), (large, small, (1, 0, 1))):
        found = detect(prediction, target, smallest=2)
        assert (len(found.matches), found.missed, found.false) == counts


@pytest.mark.parametrize(("arguments", "message"), [({"iou": 1.1}, "0 .* to 1"), ({"smallest_ml": -1.0}, "negative")])
def test_lesion_rules_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LesionRule(**arguments)
