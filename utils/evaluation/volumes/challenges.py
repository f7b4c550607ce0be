"""The scores that KiTS and LiTS rank by: their classes, tolerances and means.

KiTS21 and KiTS23 merge labels into three classes and score each case with Dice and surface Dice; the tolerances come
from the distances between annotators (kits21 `evaluation/compute_tolerances.py`; these are the values of kits21 and
kits23, an earlier revision of kits21 had 2.178, 1.393 and 1.536 mm). KiTS21 averaged over several sampled annotations
of each test case; here there is one. KiTS19 ranked by Dice alone, of label > 0 and of label > 1. LiTS scores the liver
with its tumors, and the tumors, by Dice per case and by the Dice of all cases' voxels together; where a prediction has
no voxel of liver (value 1), its program takes the liver, tumors included, as not predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.evaluation.volumes.scores import Region

KIDNEY_MM, MASS_MM, TUMOR_MM = 1.0330772532390826, 1.1328796488598762, 1.1498198361434828
LITS_MM = 1.0  # LiTS knows no surface Dice


@dataclass(frozen=True)
class Official:
    """How a challenge scores: the labels of its data, its classes, what it averages over cases, its rule in words."""

    labels: tuple[str, ...]
    regions: tuple[Region, ...]
    scores: tuple[str, ...]
    rule: str


KITS_LABELS = ("kidney", "tumor", "cyst")
HEC = Official(
    labels=KITS_LABELS,
    regions=(
        Region("kidney_and_mass", (1, 2, 3), KIDNEY_MM),
        Region("mass", (2, 3), MASS_MM),
        Region("tumor", (2,), TUMOR_MM),
    ),
    scores=("dice", "surface_dice"),
    rule="mean over cases of Dice and surface Dice; both are 1 where prediction and target are empty, 0 where one is",
)
OFFICIAL = {
    "kits19": Official(
        labels=KITS_LABELS,
        regions=(Region("kidney_and_tumor", (1, 2, 3), KIDNEY_MM), Region("tumor", (2, 3), TUMOR_MM)),
        scores=("dice",),
        rule="mean over cases of Dice; 1 where prediction and target are empty, 0 where one is",
    ),
    "kits21": HEC,
    "kits23": HEC,
    "lits": Official(
        labels=("liver", "tumor"),
        regions=(Region("liver", (1, 2), LITS_MM), Region("tumor", (2,), LITS_MM)),
        scores=("dice",),
        rule="Dice per case: mean over cases, 1 where prediction and target are empty, 0 where one is; global Dice: of "
        "all cases' voxels together",
    ),
}


def official_scores(challenge: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of a challenge from the rows of its regions.

    KiTS: `SCORE/REGION` and their mean `SCORE`. LiTS: `dice_per_case/REGION` and `dice_global/REGION`.
    """
    if challenge == "lits":
        return _lits(rows)
    official = OFFICIAL[challenge]
    scores = {}
    for score in official.scores:
        means = {region.name: _mean([row[score] for row in _of(region, rows)]) for region in official.regions}
        scores[score] = _mean(list(means.values()))
        scores |= {f"{score}/{name}": value for name, value in means.items()}
    return scores


def _lits(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    liver, tumor = OFFICIAL["lits"].regions
    tumors = {row["case"]: row["prediction_voxels"] for row in _of(tumor, rows)}
    scores = {}
    for region in (liver, tumor):
        dice, shared, voxels = [], 0, 0
        for row in _of(region, rows):
            predicted = region is tumor or row["prediction_voxels"] > tumors[row["case"]]
            dice.append(row["dice"] if predicted else 0.0)
            shared += row["intersection_voxels"] * predicted
            voxels += row["prediction_voxels"] * predicted + row["target_voxels"]
        scores[f"dice_per_case/{region.name}"] = _mean(dice)
        scores[f"dice_global/{region.name}"] = 2 * shared / voxels if voxels else 1.0
    return scores


def _of(region: Region, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["class"] == region.name]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
