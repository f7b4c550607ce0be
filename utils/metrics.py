"""Scores of whole cases. Every slice counts unless the metric's name says otherwise.

A metric is fed slices in any order, `update(logits, target, case)`, adds up pixels per case on the logits' device, and
divides once, in `compute`. A mean of slices' Dice would weigh a slice with one tumor pixel like one with a thousand.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class VolumeDice:
    """Dice of the argmax prediction per case and class over all slices; mean over cases, then over classes.

    Empty masks: prediction and target both empty scores 1, one of them empty scores 0 (the KiTS rule); VOE likewise 0
    and 1. Cases without the class are therefore in the mean; they are counted and their false positives told apart.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
    """

    selects = "dice"
    empty_mask_rule = "Dice is 1 where prediction and target are both empty, 0 where one of them is (the KiTS rule)"

    def __init__(self, class_names: Sequence[str]) -> None:
        self._counts = CaseCounts(
            class_names,
            ("intersection", "prediction", "target", "slices", "slices_without", "slices_false_positive"),
        )

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """logits (B, K, H, W), target (B, 1, H, W) of class numbers, the case of all slices or of each."""
        target = self._counts.checked(logits, target)
        counts = []
        for number, prediction in enumerate(_predictions(logits), start=1):
            intersection, predicted, wanted = _overlap(prediction, target == number)
            without = wanted == 0
            slices = torch.ones_like(wanted)
            counts.append(
                torch.stack([intersection, predicted, wanted, slices, without, without & (predicted > 0)], -1)
            )
        self._counts.add(torch.stack(counts, 1), case)

    def compute(self) -> dict[str, float]:
        """Means by name; `C` stands for a class name.

        `dice` (mean of the classes), `dice/C`, `voe/C` (1 - IoU), `abs_rvd/C` (|P/G - 1|, over cases with the class),
        `cases`, `cases_without/C`, `false_positive_voxels/C` (mean over cases without the class, in voxels) and
        `false_positive_slices/C` (fraction of the slices without the class where it is predicted). A score that has no
        case or slice to be taken over is left out. Raises ValueError before any update.
        """
        rows = self.per_case()
        scores = {"dice": _mean([row["dice"] for row in rows]), "cases": float(len(self._counts.cases))}
        for name in self._counts.class_names:
            mine = [row for row in rows if row["class"] == name]
            without = [row["prediction_voxels"] for row in mine if row["target_voxels"] == 0]
            present = [row["abs_rvd"] for row in mine if row["abs_rvd"] is not None]
            free_slices = sum(row["slices_without"] for row in mine)
            scores[f"dice/{name}"] = _mean([row["dice"] for row in mine])
            scores[f"voe/{name}"] = _mean([row["voe"] for row in mine])
            if present:
                scores[f"abs_rvd/{name}"] = _mean(present)
            scores[f"cases_without/{name}"] = float(len(without))
            if without:
                scores[f"false_positive_voxels/{name}"] = _mean(without)
            if free_slices:
                wrong = sum(row["slices_false_positive"] for row in mine)
                scores[f"false_positive_slices/{name}"] = wrong / free_slices
        return scores

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

    def __init__(self, class_names: Sequence[str], threshold: float = 0.4) -> None:
        self.threshold = threshold
        self._counts = CaseCounts(class_names, ("intersection", "prediction", "target", "slices"))

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None:
        """logits (B, K, H, W), target (B, 1, H, W) of class numbers, the case of all slices or of each."""
        target = self._counts.checked(logits, target)
        probability = logits.float().softmax(1)
        counts = []
        for number in range(1, logits.shape[1]):
            sums = _overlap(probability[:, number] > self.threshold, target == number)
            holds = (sums[2] > 0).long()
            counts.append(torch.stack([*(part * holds for part in sums), holds], -1))
        self._counts.add(torch.stack(counts, 1), case)

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
                scores[f"published/{key}/{name}"] = _mean([row[key] for row in mine])
        classes = [value for key, value in scores.items() if key.startswith("published/dice/")]
        return {"published/dice": _mean(classes), **scores} if classes else scores

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


class CaseCounts:
    """Integer counts per case and class, summed where they arise and brought to the CPU once, when read.

    Args:
        class_names: Names of the foreground classes 1, 2, ...
        columns: Names of the counts.
    """

    def __init__(self, class_names: Sequence[str], columns: Sequence[str]) -> None:
        if not class_names or isinstance(class_names, str):
            raise ValueError(f"class_names {class_names!r}: give the list of foreground classes, e.g. ['tumor']")
        self.class_names = list(class_names)
        self.columns = tuple(columns)
        self.cases: dict[str, Tensor] = {}

    def checked(self, logits: Tensor, target: Tensor) -> Tensor:
        """The target as (B, H, W) on the logits' device. Raises ValueError for shapes that do not belong together."""
        classes = len(self.class_names) + 1
        batch, _, *size = logits.shape
        if logits.ndim != 4 or logits.shape[1] != classes or tuple(target.shape) != (batch, 1, *size):
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: they must be "
                f"(B, {classes}, H, W) and (B, 1, H, W) for background and {', '.join(self.class_names)}"
            )
        return target[:, 0].to(logits.device)

    def add(self, counts: Tensor, case: str | Sequence[str]) -> None:
        """Add the counts (B, classes, columns) of B slices to their cases."""
        cases = [case] * len(counts) if isinstance(case, str) else list(case)
        if len(cases) != len(counts):
            raise ValueError(f"{len(cases)} cases for {len(counts)} slices: give one name, or one for each slice")
        for name in dict.fromkeys(cases):
            mine = [index for index, other in enumerate(cases) if other == name]
            total = counts.sum(0) if len(mine) == len(cases) else counts[mine].sum(0)
            self.cases[name] = total if name not in self.cases else self.cases[name] + total.to(self.cases[name].device)

    def rows(self) -> list[tuple[str, str, dict[str, int]]]:
        """Case, class and its counts by column, sorted by case."""
        if not self.cases:
            raise ValueError("no slice was scored yet: call update first")
        names = sorted(self.cases)
        table = torch.stack([self.cases[name].cpu() for name in names]).tolist()
        return [
            (case, name, dict(zip(self.columns, values, strict=True)))
            for case, classes in zip(names, table, strict=True)
            for name, values in zip(self.class_names, classes, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Class names, and per case the counts (classes, columns) as lists."""
        return {"class_names": self.class_names, "cases": {name: part.tolist() for name, part in self.cases.items()}}

    def merge(self, state: dict[str, Any]) -> None:
        """Add what `state` returned elsewhere. Raises ValueError when it counts other classes."""
        if state["class_names"] != self.class_names:
            raise ValueError(f"cannot merge scores of {state['class_names']} into those of {self.class_names}")
        for name, values in state["cases"].items():
            part = torch.tensor(values)
            self.cases[name] = part if name not in self.cases else self.cases[name] + part.to(self.cases[name].device)


def _predictions(logits: Tensor) -> list[Tensor]:
    """Where each foreground class is the argmax, (B, H, W) bool; the lower class where two are equal.

    Written as comparisons because torch's argmax over the classes took 30 to 500 times as long on one CPU core.
    """
    best, predictions = logits[:, 0], []
    for number in range(1, logits.shape[1]):
        better = logits[:, number] > best
        best = torch.maximum(best, logits[:, number])
        predictions = [prediction & ~better for prediction in predictions]
        predictions.append(better)
    return predictions


def _overlap(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels per slice (B,) int64 in both, in the prediction, in the target, of two (B, H, W) bool tensors."""
    # On the CPU bool sums to int32 14 times as fast as to int64; a slice has fewer than 2^31 pixels.
    return tuple(part.flatten(1).sum(1, dtype=torch.int32).long() for part in (prediction & target, prediction, target))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


METRICS = {
    "published": PublishedProtocol,
    "volume_dice": VolumeDice,
}
