"""The evaluation of the published systems as coded, for comparison with their tables."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from utils.evaluation.metrics.counts import CaseCounts, mean


class PublishedProtocol:
    """The evaluation of EMKD and HLFD as coded, under tags `published/...`; not comparable with `VolumeDice`.

    Qin et al. (TMI 2021) and HLFD (ISBI 2024) score only slices whose target holds the class, so that false positives
    on all other slices cost nothing, and predict where the softmax probability exceeds 0.4, not by argmax. With the
    pixels P (prediction), G (target) and I (both) of a case they report Dice (2I + 1) / (P + G + 1), a "VOE"
    2 (P - I) / (P + G) that counts false positives only, and a signed RVD P / G - 1 whose errors cancel in the mean.
    Cases without the class do not take part. Of several foreground classes each is scored on the slices that hold it.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
        threshold: Probability above which a pixel is predicted.
    """

    selects = "published/dice"
    empty_mask_rule = "only slices whose target holds the class are scored (the protocol of EMKD and HLFD)"
    beside = ()
    case_score = "dice"
    check_cases = 3

    def __init__(self, class_names: Sequence[str], threshold: float = 0.4) -> None:
        self.threshold = threshold
        self._counts = CaseCounts(class_names, ("intersection", "prediction", "target", "slices"), _of_slices)

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """logits (B, K, H, W), target (B, 1, H, W) of class numbers, the case of all slices or of each."""
        target = self._counts.checked(logits, target)
        probability = logits.float().softmax(1)
        predictions = (probability[:, number] > self.threshold for number in range(1, logits.shape[1]))
        self._counts.add(predictions, target, case)

    def compute(self) -> dict[str, float]:
        """`published/dice` (mean of the classes), `published/{dice,voe,rvd,cases}/C` for every class name C.

        A class that no slice holds has only its number of cases, 0. Raises ValueError before any update.
        """
        rows = self.per_case()
        scores = {}
        for name in self._counts.class_names:
            mine = [row for row in rows if row["class"] == name]
            scores[f"published/cases/{name}"] = float(len(mine))
            for key in ("dice", "voe", "rvd") if mine else ():
                scores[f"published/{key}/{name}"] = mean([row[key] for row in mine])
        classes = [value for key, value in scores.items() if key.startswith("published/dice/")]
        return {"published/dice": mean(classes), **scores} if classes else scores

    def per_case(self) -> list[dict[str, Any]]:
        """One row per case and class that has a slice with it."""
        rows = []
        for case, name, n in self._counts.rows():
            intersection, predicted, wanted = n["intersection"], n["prediction"], n["target"]
            if n["slices"] == 0:
                continue
            rows.append(
                {
                    "case": case,
                    "class": name,
                    "dice": (2 * intersection + 1) / (predicted + wanted + 1),
                    "voe": 2 * (predicted - intersection) / (predicted + wanted),
                    "rvd": predicted / wanted - 1,
                    "slices": n["slices"],
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
    holds = wanted > 0
    return torch.stack([intersection * holds, predicted * holds, wanted, holds], -1)
