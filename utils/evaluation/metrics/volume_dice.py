"""Dice of whole cases. Every slice counts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from datasets.slices.arrays import class_numbers
from utils.evaluation.metrics.counts import CaseCounts, mean

AGREEMENT = "agreement/"  # begins the names of scores against answers
ANSWERS = {
    "teacher": "; no label was seen: the targets are what the teacher answers",
    "itself": "; no label was seen: the targets are what the network itself answers in PyTorch",
}


class VolumeDice:
    """Dice of the argmax prediction per case and class over all slices; mean over cases, then over classes.

    Empty masks: prediction and target both empty scores 1, one of them empty scores 0 (the KiTS rule); VOE likewise 0
    and 1. Cases without the class are therefore in the mean; their false positives are also counted apart.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
        against: What the targets are: `labels`, a `teacher`'s answers, or those of the network `itself`. The names of
            scores against answers begin with `agreement/`.
    """

    selects = "dice"
    empty_mask_rule = "Dice is 1 where prediction and target are both empty, 0 where one of them is (the KiTS rule)"
    beside: tuple[str, ...] = ("published",)
    case_score = "dice"
    check_cases = 3

    def __init__(self, class_names: Sequence[str], against: Literal["labels", "teacher", "itself"] = "labels") -> None:
        self._prefix = "" if against == "labels" else AGREEMENT
        if self._prefix:
            self.selects, self.beside = f"{self._prefix}dice", ()
            self.empty_mask_rule += ANSWERS[against]
        self._counts = CaseCounts(
            class_names,
            ("intersection", "prediction", "target", "slices", "slices_without", "slices_false_positive"),
            _of_slices,
        )

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """logits (B, K, H, W), target (B, 1, H, W) of class numbers, the case of all slices or of each."""
        target = self._counts.checked(logits, target)
        labels = class_numbers(logits)
        self._counts.add((labels == number for number in range(1, logits.shape[1])), target, case)

    def compute(self) -> dict[str, float]:
        """Means by name; `C` stands for a class name.

        `dice` (mean of the classes), `dice/C`, `voe/C` (1 - IoU), `abs_rvd/C` (|P/G - 1|, over cases with the class),
        `cases`, `cases_without/C`, `false_positive_voxels/C` (mean over cases without the class, in voxels) and
        `false_positive_slices/C` (fraction of the slices without the class where it is predicted). A score that has no
        case or slice to be taken over is left out. Raises ValueError before any update.
        """
        rows = self.per_case()
        scores = {"dice": mean([row["dice"] for row in rows]), "cases": float(len(self._counts.cases))}
        for name in self._counts.class_names:
            mine = [row for row in rows if row["class"] == name]
            without = [row["prediction_voxels"] for row in mine if row["target_voxels"] == 0]
            present = [row["abs_rvd"] for row in mine if row["abs_rvd"] is not None]
            free_slices = sum(row["slices_without"] for row in mine)
            scores[f"dice/{name}"] = mean([row["dice"] for row in mine])
            scores[f"voe/{name}"] = mean([row["voe"] for row in mine])
            if present:
                scores[f"abs_rvd/{name}"] = mean(present)
            scores[f"cases_without/{name}"] = float(len(without))
            if without:
                scores[f"false_positive_voxels/{name}"] = mean(without)
            if free_slices:
                wrong = sum(row["slices_false_positive"] for row in mine)
                scores[f"false_positive_slices/{name}"] = wrong / free_slices
        return {f"{self._prefix}{name}": value for name, value in scores.items()}

    def per_case(self) -> list[dict[str, Any]]:
        """One row per case and class: scores and their counts; `abs_rvd` is None where the target is empty."""
        rows = []
        for case, name, n in self._counts.rows():
            intersection, predicted, wanted = n["intersection"], n["prediction"], n["target"]
            both, either = predicted + wanted, predicted + wanted - intersection
            rows.append(
                {
                    "case": case,
                    "class": name,
                    "dice": 2 * intersection / both if both else 1.0,
                    "voe": 1 - intersection / either if either else 0.0,
                    "abs_rvd": abs(predicted / wanted - 1) if wanted else None,
                    "intersection_voxels": intersection,
                    "prediction_voxels": predicted,
                    "target_voxels": wanted,
                    "slices": n["slices"],
                    "slices_without": n["slices_without"],
                    "slices_false_positive": n["slices_false_positive"],
                }
            )
        return rows

    def state(self) -> dict[str, Any]:
        """The counts as plain values, to be gathered over processes."""
        return self._counts.state()

    def merge(self, state: dict[str, Any]) -> None:
        """Add the `state()` of another process; the slices of a case may be spread over several."""
        self._counts.merge(state)


def _of_slices(intersection: Tensor, predicted: Tensor, wanted: Tensor) -> Tensor:
    without = wanted == 0
    slices = torch.ones_like(wanted)
    return torch.stack([intersection, predicted, wanted, slices, without, without & (predicted > 0)], -1)
