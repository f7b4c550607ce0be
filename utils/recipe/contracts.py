"""What the `data` and `metric` sections of a recipe must name: what every dataset and every metric offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a command line is read without torch
    from torch import Tensor


class Samples(Protocol):
    """One split of a dataset.

    A sample is {"image": (C, H, W), "target": (1, H, W) or a class number, "case": name, ...}; a target of -1 is
    unlabeled.

    Attributes:
        cases: The cases of the split, in order; `patients` are the people that they come from.
        class_names: The classes that are named: for slices those of the foreground.
        num_classes: How many logits a network needs.
        class_counts: Training samples of each class; None where a sample has more than one.
        preprocessing: What a prediction must do to an image first, as a checkpoint carries it; see `kind_of`.
        digests: Hashes of each case's images and targets.
        split_sha256: The hash of who is in which split.
        unlabeled: Patients whose target is -1 everywhere.
        sampling_weights: How often each sample is drawn; None for once an epoch.
        epoch: It decides, with the seed, how samples are augmented.
        notes: Lines to print before training.
    """

    cases: Sequence[str]
    class_names: Sequence[str]
    num_classes: int
    in_channels: int
    split_sha256: str
    unlabeled: frozenset[str]
    sampling_weights: Tensor | None
    epoch: int
    notes: Sequence[str]

    @property
    def patients(self) -> Sequence[str]: ...
    @property
    def class_counts(self) -> Sequence[int] | None: ...
    @property
    def preprocessing(self) -> dict[str, Any]: ...
    @property
    def digests(self) -> Mapping[str, Sequence[str]]: ...
    def split_patients(self, split: str) -> Sequence[str]: ...
    def case_indices(self) -> Mapping[str, Sequence[int]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Metric(Protocol):
    """Scores of whole cases.

    Attributes:
        selects: The score that chooses best.ckpt.
        empty_mask_rule: What is counted where prediction or target is empty, printed beside the scores.
        beside: The metrics that are computed with this one.
        case_score: The key of a row by which a teacher is checked again, on at most `check_cases` cases.
    """

    selects: str
    empty_mask_rule: str
    beside: Sequence[str]
    case_score: str
    check_cases: int

    def update(self, logits: Tensor, target: Tensor, case: str | Sequence[str]) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def per_case(self) -> list[dict[str, Any]]: ...
    def state(self) -> dict[str, Any]: ...
    def merge(self, state: dict[str, Any]) -> None: ...
