"""Gradient boosting on tables of lesions: patient-grouped folds, class weights, intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.metrics.classification import scores
from utils.evaluation.metrics.partial_auc import partial_auc
from utils.evaluation.statistics import Comparison, compare, correct, interval, jackknife

SCORES = ("partial_auc", "auroc", "average_precision")
MOST_CATEGORIES = 255  # scikit-learn bins a column into as many
COLUMN_SHARE = 0.8  # the share of the columns that a split chooses from, as published

Predict = Callable[[NDArray[np.floating]], NDArray[np.float64]]


@dataclass(frozen=True)
class Boosting:
    """How a booster is fitted: scikit-learn's HistGradientBoostingClassifier.

    XGBoost was published: 600 trees of depth 5, learning rate 0.05, stopped early. The number of trees is fixed here:
    stopping early needs patients of its own in every fold.

    Args:
        iterations: Number of trees.
        learning_rate: The learning rate of each tree.
        depth: The largest depth of a tree.
        seed: Seed of the folds, and of the columns a tree may use.

    Raises ValueError for numbers that are not above 0.
    """

    iterations: int = 200
    learning_rate: float = 0.05
    depth: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "learning_rate", "depth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name):g}: give a number above 0")


@dataclass(frozen=True)
class Table:
    """Features of lesions (N, F), NaN where a value is missing; `categorical` names the columns of category numbers.

    Raises ValueError for a column of more than 255 categories.
    """

    values: NDArray[np.floating]
    categorical: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for column in self.categorical:
            if np.nanmax(self.values[:, column], initial=0) >= MOST_CATEGORIES:
                raise ValueError(f"column {column} has more than {MOST_CATEGORIES} categories: leave it out")

    def beside(self, other: Table) -> Table:
        """Both tables' columns, this one's first."""
        shifted = tuple(column + self.values.shape[1] for column in other.categorical)
        return Table(np.concatenate([self.values, other.values], 1), self.categorical + shifted)


def patient_folds(
    target: NDArray[np.integer], patients: Sequence[str], folds: int, seed: int
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """The rows to fit and to score in each fold; no patient is in both, and the malignant share is about the same.

    Raises ValueError when some fold would have lesions of one class only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    ill = len({patient for patient, label in zip(patients, target, strict=True) if label})
    if not 2 <= folds <= ill:
        raise ValueError(f"{folds} folds: {ill} patients have a malignant lesion, give 2 to {ill} folds")
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fitted, scored in divide.split(np.zeros(len(target)), target, list(patients)):
        if len(np.unique(target[fitted])) < 2 or len(np.unique(target[scored])) < 2:
            raise ValueError(f"one of {folds} folds has no malignant, or no benign, lesion: give fewer folds")
        yield fitted, scored


def fit(settings: Boosting, table: Table, target: NDArray[np.integer]) -> Predict:
    """Fits a booster, both classes of the same weight; returns the probability of class 1 (N,) of values (N, F)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    weight = (len(target) / 2 / np.bincount(target, minlength=2))[target]
    numeric = [column for column in range(table.values.shape[1]) if column not in table.categorical]
    edges = {column: _edges(table.values[:, column], weight) for column in numeric}

    def binned(values: NDArray[np.floating]) -> NDArray[np.float64]:
        result = values.astype(np.float64)
        for column, bounds in edges.items():
            known = ~np.isnan(result[:, column])
            result[known, column] = np.searchsorted(bounds, values[known, column])
        return result

    booster = HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_iter=settings.iterations,
        max_depth=settings.depth,
        max_features=COLUMN_SHARE,
        l2_regularization=1.0,
        categorical_features=list(table.categorical) or None,
        early_stopping=False,  # it would hold out lesions, not patients
        random_state=settings.seed,
    ).fit(binned(table.values), target, sample_weight=weight)
    return lambda values: booster.predict_proba(binned(values))[:, 1]


def _edges(column: NDArray[np.floating], weight: NDArray[np.float64]) -> NDArray[np.floating]:
    """Where to cut a column into up to 255 bins of equal weight.

    scikit-learn does so itself, but with weights sorts a column anew for every bin: minutes for an embedding. Without,
    the few malignant lesions would share a bin or two with what looks most like them.
    """
    known = np.flatnonzero(~np.isnan(column))
    order = known[np.argsort(column[known])]
    total = np.cumsum(weight[order])
    if not len(total):
        return column[:0]
    levels = np.arange(1, MOST_CATEGORIES) / MOST_CATEGORIES * total[-1]
    return np.unique(column[order][np.searchsorted(total, levels)])


def out_of_fold(
    settings: Boosting,
    table: Table,
    target: NDArray[np.integer],
    folds: Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]],
) -> NDArray[np.float64]:
    """The probability (N,) of every row, by a booster fitted on the folds it is not in."""
    probability = np.full(len(target), np.nan)
    for fitted, scored in folds:
        predict = fit(settings, Table(table.values[fitted], table.categorical), target[fitted])
        probability[scored] = predict(table.values[scored])
    return probability


def score(probability: NDArray[np.floating], target: NDArray[np.integer]) -> dict[str, float]:
    """pAUC above a true positive rate of 0.8, AUROC and average precision of malignant (class 1)."""
    found = scores(np.stack([1 - probability, probability], 1), target, ("benign", "malignant"))
    return {name: found[name] for name in SCORES}


def compare_models(
    probabilities: Mapping[str, NDArray[np.floating]],
    target: NDArray[np.integer],
    patients: Sequence[str],
    against: str,
) -> tuple[dict[str, tuple[float, float]], dict[str, Comparison]]:
    """95 % intervals of the pAUC of every model, and how each compares with the model `against`, by the one rule.

    Patients are left out in turn, with all their lesions: lesions of one patient are alike. With few malignant lesions
    intervals of a pAUC say little, as it hangs on the worst-ranked ones.
    """
    if not target.any() or target.all():
        raise ValueError("test has lesions of one class only: there is nothing to score")

    def split(probability: NDArray[np.floating]) -> NDArray[np.floating]:
        def area(kept: NDArray[np.bool_]) -> float:
            return partial_auc(probability[kept], target[kept]) if np.ptp(target[kept]) else float("nan")

        return jackknife(area, len(target), patients)[None]

    values = {name: split(probability) for name, probability in probabilities.items()}
    intervals = {name: interval([each])[1:3] for name, each in values.items()}
    others = [name for name in values if name != against]
    found = correct([compare(values[name], values[against], unit="patients") for name in others])
    return intervals, dict(zip(others, found, strict=True))
