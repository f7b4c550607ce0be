"""What the `data` and `metric` sections of a recipe must name: what every dataset and every metric offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a command line is read without torch
    import torch
    from torch import Tensor


class Samples(Protocol):
    """One split of a dataset.

    A batch is {"image": (B, C, H, W) float32, "target": (B, 1, H, W) or (B,) int64, "case": names, ...}; a target of -1
    is unlabeled. It is made in two steps. `gather` finds what is stored of the samples, where it is stored; `finish`
    makes the network's input of it on whatever device its tensors are by then, and never waits for that device. `batch`
    is both; a sample, `dataset[i]`, is a batch of one without its first axis. Index i + n * len(dataset) is the n-th
    repetition of sample i in an epoch, drawn anew. What is drawn depends on the seed, the epoch and the index alone.

    Attributes:
        cases: The cases of the split, in order; `patients` are the people that they come from.
        class_names: The classes that are named: for slices those of the foreground.
        num_classes: How many logits a network needs.
        class_counts: Training samples of each class; None where a sample has more than one.
        preprocessing: What a prediction must do to an image first, as a checkpoint carries it; see `kind_of`.
        digests: Hashes of each case's images and targets.
        split_sha256: The hash of who is in which split.
        has_labels: Whether anybody labeled the samples; else every target is -1.
        unlabeled: Patients whose target is -1 everywhere.
        labeled: Which samples' targets are known, a bool each; None where all are.
        sampling_weights: How often each sample is drawn; None for once an epoch.
        epoch: It decides, with the seed, how samples are augmented; worker processes see a new one.
        views: How many different images are drawn of each sample; 0 where none comes twice. Else batches have a "view",
            a number for each image that equal ones share.
        sizes: The (height, width) that each case's samples are stored in. Those of one size fit into one batch.
        notes: Lines to print before training.
    """

    cases: Sequence[str]
    class_names: Sequence[str]
    num_classes: int
    in_channels: int
    split_sha256: str
    has_labels: bool
    unlabeled: frozenset[str]
    labeled: Tensor | None
    sampling_weights: Tensor | None
    epoch: int
    views: int
    notes: Sequence[str]

    @property
    def patients(self) -> Sequence[str]: ...
    @property
    def class_counts(self) -> Sequence[int] | None: ...
    @property
    def preprocessing(self) -> dict[str, Any]: ...
    @property
    def digests(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]: ...
    def split_patients(self, split: str) -> Sequence[str]: ...
    def case_indices(self) -> Mapping[str, Sequence[int]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def gather(self, indices: Sequence[int]) -> dict[str, Any]: ...
    def finish(self, raw: dict[str, Any]) -> dict[str, Any]: ...
    def batch(self, indices: Sequence[int]) -> dict[str, Any]: ...
    def hold(self, device: torch.device) -> bool:
        """Keeps the split on a device, if it fits there; False where it stays where it is."""
        ...


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
