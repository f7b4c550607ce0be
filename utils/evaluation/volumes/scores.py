"""Scores of a predicted label volume against its target: one row a class, its units in the column names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.volumes.lesions import Detection, detect
from utils.evaluation.volumes.surfaces import Surface, surface, surface_dice, surface_distances

EMPTY_MASK_RULES = {
    "dice": "1 where prediction and target are both empty, 0 where one of them is (the KiTS rule)",
    "surface_dice": "1 where both are empty, 0 where one of them is (the KiTS rule)",
    "hd95_mm": "none where either is empty: such cases are left out of the mean, and their number is given",
    "assd_mm": "none where either is empty: such cases are left out of the mean, and their number is given",
    "voe": "1 - intersection over union: 0 where both are empty, 1 where one of them is",
    "abs_rvd": "|prediction / target - 1|: none where the target is empty; such cases are left out of the mean",
    "lesion_f1": "1 where neither has a lesion, 0 where only one of them has",
}
EMPTY_MASKS = (
    "both empty: dice, surface_dice, lesion_f1 1, voe 0; one empty: 0 and 1; hd95_mm, assd_mm empty fields if either "
    "is empty, abs_rvd if the target is"
)
DEFINITIONS = {
    "surface_dice": "share of both surfaces within tolerance_mm of the other, surfels weighed by area (DeepMind)",
    "hd95_mm": "larger of the two 95th percentiles of the distances between edge voxels (MONAI)",
    "assd_mm": "mean of the distances between edge voxels, both directions together (MONAI)",
    "voe": "1 - intersection / union",
    "lesion": "26-connected component of the class; detected by the one predicted component whose intersection over "
    "union with it reaches lesion_iou, matched one to one, the highest first",
    "lesion_f1": "2 detected / (lesions + predicted lesions)",
    "ml": "voxels times the volume of one",
}
HIGHER_IS_BETTER = {
    "dice": True,
    "surface_dice": True,
    "hd95_mm": False,
    "assd_mm": False,
    "voe": False,
    "abs_rvd": False,
    "lesion_f1": True,
}
SIDES = "prediction", "target"
EMPTY = {(True, True): "both", (True, False): "prediction", (False, True): "target", (False, False): "neither"}


@dataclass(frozen=True)
class Region:
    """A class to score: the label values that make it up, and how far its surface may be off, in mm."""

    name: str
    values: tuple[int, ...]
    tolerance_mm: float


@dataclass(frozen=True)
class LesionRule:
    """What counts as a detected lesion: at least this intersection over union; and how small a lesion may be, in ml."""

    iou: float = 0.1
    smallest_ml: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.iou <= 1:
            raise ValueError(f"lesion IoU {self.iou} is out of range: give 0 (any shared voxel) to 1")
        if not self.smallest_ml >= 0:
            raise ValueError(f"smallest lesion {self.smallest_ml} ml is negative: give 0 or more")


@dataclass(frozen=True)
class CaseScores:
    """A row a class, and a row for each lesion of the target and each false one of the prediction."""

    rows: list[dict[str, Any]]
    lesions: list[dict[str, Any]]


def score_volumes(
    prediction: NDArray[np.uint8],
    target: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    voxel_ml: float,
    areas: NDArray[np.float64],
    regions: Sequence[Region],
    lesion_rule: LesionRule,
) -> CaseScores:
    """Every score of every region of one case.

    prediction, target: (D, H, W) label values on one grid; spacing: mm in the same axis order; voxel_ml: of one
    voxel, by the affine; areas: `surfel_areas(spacing)`. Distances take the axes to be at right angles. Raises
    ValueError for two shapes.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    box = _foreground(prediction, target)
    prediction, target = prediction[box], target[box]
    scores = CaseScores([], [])
    for region in regions:
        masks = [np.isin(volume, region.values) for volume in (prediction, target)]
        voxels = [int(np.count_nonzero(mask)) for mask in masks]
        surfaces = [surface(mask) for mask in masks] if all(voxels) else None
        found = detect(*masks, lesion_rule.iou, lesion_rule.smallest_ml / voxel_ml)
        scores.rows.append(
            {
                "class": region.name,
                **_overlap(*voxels, int(np.count_nonzero(masks[0] & masks[1]))),
                **_surface(surfaces, not any(voxels), spacing, areas, region.tolerance_mm),
                **{f"{name}_ml": count * voxel_ml for name, count in zip(SIDES, voxels, strict=True)},
                **_detection(found),
                "empty": EMPTY[tuple(count == 0 for count in voxels)],
            }
        )
        scores.lesions.extend({"class": region.name, **row} for row in _lesion_rows(found, voxel_ml))
    return scores


def _foreground(*volumes: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """The smallest box that holds every value above 0."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(np.logical_or.reduce([volume.any(others) for volume in volumes]))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 1))
    return tuple(box)


def _overlap(prediction: int, target: int, shared: int) -> dict[str, float | None]:
    both = prediction + target
    return {
        "dice": 2 * shared / both if both else 1.0,
        "voe": 1 - shared / (both - shared) if both else 0.0,
        "abs_rvd": abs(prediction / target - 1) if target else None,
        "intersection_voxels": shared,
        "prediction_voxels": prediction,
        "target_voxels": target,
    }


def _surface(
    surfaces: Sequence[Surface] | None,
    both_empty: bool,
    spacing: tuple[float, float, float],
    areas: NDArray[np.float64],
    tolerance_mm: float,
) -> dict[str, float | None]:
    if surfaces is None:
        scores = (1.0 if both_empty else 0.0, None, None)
    else:
        scores = (surface_dice(*surfaces, spacing, areas, tolerance_mm), *surface_distances(*surfaces, spacing))
    return {**dict(zip(("surface_dice", "hd95_mm", "assd_mm"), scores, strict=True)), "tolerance_mm": tolerance_mm}


def _detection(found: Detection) -> dict[str, float]:
    return {
        "lesion_f1": found.f1,
        "lesions": len(found.target_voxels),
        "lesions_detected": len(found.matches),
        "lesions_missed": found.missed,
        "lesions_false": found.false,
    }


def _lesion_rows(found: Detection, voxel_ml: float) -> list[dict[str, Any]]:
    matched = {target: (prediction, iou) for target, prediction, iou in found.matches}
    rows = []
    for number, voxels in enumerate(found.target_voxels):
        prediction, iou = matched.get(number, (None, 0.0))
        rows.append(
            {
                "outcome": "missed" if prediction is None else "detected",
                "target_ml": voxels * voxel_ml,
                "prediction_ml": 0.0 if prediction is None else found.prediction_voxels[prediction] * voxel_ml,
                "iou": iou,
            }
        )
    right = {prediction for prediction, _ in matched.values()}
    for number, voxels in enumerate(found.prediction_voxels):
        if number not in right:
            rows.append({"outcome": "false", "target_ml": 0.0, "prediction_ml": voxels * voxel_ml, "iou": 0.0})
    return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over cases by class, and what they leave out.

    `cases_without`: the target is empty; `cases_missed`: only the prediction is; `cases_invented`: only the target is.
    `hd95_mm_cases`, `assd_mm_cases`, `abs_rvd_cases`: cases in that mean. `lesions*`: sums over cases, and
    `lesion_f1_pooled` from them. A score without a case is left out.
    """
    summary: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = [row for row in rows if row["class"] == name]
        empty = Counter(row["empty"] for row in mine)
        scores: dict[str, float] = {
            "cases": len(mine),
            "cases_without": empty["both"] + empty["target"],
            "cases_missed": empty["prediction"],
            "cases_invented": empty["target"],
        }
        for score in HIGHER_IS_BETTER:
            values = [row[score] for row in mine if row[score] is not None]
            if values:
                scores[score] = float(np.mean(values))
            if score in ("hd95_mm", "assd_mm", "abs_rvd"):
                scores[f"{score}_cases"] = len(values)
        for count in ("lesions", "lesions_detected", "lesions_missed", "lesions_false"):
            scores[count] = sum(row[count] for row in mine)
        lesions = scores["lesions"] + scores["lesions_detected"] + scores["lesions_false"]
        scores["lesion_f1_pooled"] = 2 * scores["lesions_detected"] / lesions if lesions else 1.0
        summary[name] = scores
    return summary
