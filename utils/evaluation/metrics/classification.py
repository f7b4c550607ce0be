"""Scores of images with one class each."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.evaluation.metrics.calibration import calibration_error
from utils.evaluation.metrics.partial_auc import partial_auc

Select = Literal["balanced_accuracy", "accuracy", "auroc", "macro_f1", "average_precision", "partial_auc"]


def scores(
    probability: NDArray[np.floating], target: NDArray[np.integer], class_names: Sequence[str]
) -> dict[str, float]:
    """Scores by name of N images from probability (N, K) and target (N,); `C` stands for a class name.

    `accuracy`, `balanced_accuracy` (mean recall), `macro_f1`, `auroc` and `average_precision` (one class against the
    rest, mean over classes; of class 1 where K is 2), `calibration_error`, `partial_auc` (K = 2, see there), `cases`,
    `recall/C`, `precision/C`, `f1/C`, `auroc/C`. The answer is the most probable class, the first of equals. Classes
    without an image are left out of every mean, and so is a score that nothing is known of: areas where all images are
    of one class, the precision of a class that is never answered.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    table = confusion(target, probability.argmax(1), len(class_names))
    right, wanted, answered = np.diag(table), table.sum(1), table.sum(0)
    recall, f1, precision, auroc, average_precision = ({} for _ in range(5))
    for number, name in enumerate(class_names):
        if not wanted[number]:
            continue
        recall[name] = right[number] / wanted[number]
        f1[name] = 2 * right[number] / (wanted[number] + answered[number])
        if answered[number]:
            precision[name] = right[number] / answered[number]
        if wanted[number] < len(target):
            auroc[name] = roc_auc_score(target == number, probability[:, number])
            average_precision[name] = average_precision_score(target == number, probability[:, number])
    found = {
        "accuracy": right.sum() / len(target),
        "balanced_accuracy": np.mean(list(recall.values())),
        "macro_f1": np.mean(list(f1.values())),
        "calibration_error": calibration_error(probability, target),
        "cases": len(target),
    }
    if auroc:
        binary = len(class_names) == 2
        for key, areas in (("auroc", auroc), ("average_precision", average_precision)):
            found[key] = areas[class_names[1]] if binary else np.mean(list(areas.values()))
        if binary:
            found["partial_auc"] = partial_auc(probability[:, 1], target)
    by_class = {"recall": recall, "precision": precision, "f1": f1, "auroc": auroc}
    found |= {f"{key}/{name}": value for key, values in by_class.items() for name, value in values.items()}
    return {key: float(value) for key, value in found.items()}


def confusion(target: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """Images by target (row) and prediction (column): (K, K)."""
    flat = np.bincount(target * num_classes + prediction, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


class Classification:
    """Accuracy, balanced accuracy, macro F1, areas under curves and calibration of images with one class each.

    For two classes class 1 is the positive one. A case is an image and may be scored once.

    Args:
        class_names: Names of the classes 0, 1, ...
        select: The score that picks best.ckpt; `partial_auc` (ISIC 2024) is defined for two classes.
    """

    empty_mask_rule = "classes without a case are left out of the means"
    beside = ()
    case_score = "target_probability"
    check_cases = 200

    def __init__(self, class_names: Sequence[str], select: Select = "balanced_accuracy") -> None:
        if isinstance(class_names, str) or len(class_names) < 2:
            raise ValueError(
                f"class_names {class_names!r}: classification scores images of two or more classes, e.g. "
                "['benign', 'malignant']; for masks the metric is volume_dice"
            )
        if select == "partial_auc" and len(class_names) != 2:
            raise ValueError(
                f"select partial_auc is defined for two classes, not for the {len(class_names)} classes "
                f"{', '.join(class_names)}; select auroc"
            )
        self.class_names = list(class_names)
        self.selects = select
        self._cases: dict[str, tuple[int, list[float]]] = {}
        self._waiting: list[tuple[list[str], Tensor, Tensor]] = []  # on the logits' device until the scores are read

    def update(self, logits: Tensor, target: Tensor, case: Sequence[str]) -> None:
        """logits (B, K), target (B,) of class numbers, the case of each image."""
        batch, classes = len(logits), len(self.class_names)
        if tuple(logits.shape) != (batch, classes) or tuple(target.shape) != (batch,):
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: they must be "
                f"(B, {classes}) and (B,) for {', '.join(self.class_names)}"
            )
        if isinstance(case, str) or len(case) != batch:
            raise ValueError(f"{batch} images and the cases {case!r}: give a name for each image")
        self._waiting.append((list(case), logits.detach().float(), target.detach()))

    def compute(self) -> dict[str, float]:
        """`scores` of all cases. Raises ValueError before any update, and for logits that are not finite."""
        table = self._table()
        probability = np.array([values for _, (_, values) in table])
        target = np.array([number for _, (number, _) in table])
        return scores(probability, target, self.class_names)

    def per_case(self) -> list[dict[str, Any]]:
        """One row a case, by its name: target and prediction as class numbers, probabilities to six digits."""
        rows = []
        for case, (target, values) in self._table():
            rounded = [float(f"{value:.6g}") for value in values]
            rows.append(
                {
                    "case": case,
                    "target": target,
                    "prediction": int(np.argmax(values)),
                    "probability": rounded,
                    "target_probability": rounded[target],
                }
            )
        return rows

    def state(self) -> dict[str, Any]:
        """Class names, and target and probabilities of each case, as plain values, to be gathered over processes."""
        self._settle()
        return {"class_names": self.class_names, "cases": {case: list(row) for case, row in self._cases.items()}}

    def merge(self, state: dict[str, Any]) -> None:
        """Add the `state()` of another process. Raises ValueError when it has other classes, or a case that is here."""
        if state["class_names"] != self.class_names:
            raise ValueError(f"cannot merge scores of {state['class_names']} into those of {self.class_names}")
        self._settle()
        for case, (target, values) in state["cases"].items():
            self._add(case, target, values)

    def _table(self) -> list[tuple[str, tuple[int, list[float]]]]:
        self._settle()
        if not self._cases:
            raise ValueError("no image was scored yet: call update first")
        return sorted(self._cases.items())

    def _settle(self) -> None:
        """Brings what waits to the CPU."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        names, logits, targets = zip(*waiting, strict=True)
        cases = [case for part in names for case in part]
        # In double precision near-certain answers keep their order.
        probability = torch.cat(logits).cpu().double().softmax(1)
        if not torch.isfinite(probability).all():
            worst = cases[int((~torch.isfinite(probability)).any(1).nonzero()[0])]
            raise ValueError(f"the logits of {worst} are not finite: train with a lower learning rate or in 32-true")
        for case, target, values in zip(cases, torch.cat(targets).tolist(), probability.tolist(), strict=True):
            self._add(case, target, values)

    def _add(self, case: str, target: int, values: list[float]) -> None:
        if case in self._cases:
            raise ValueError(f"case {case} was scored twice: an image counts once, give each a name of its own")
        self._cases[case] = (target, values)
