"""Scores of a split by name: fed batches in any order with `update(logits, target, case)`, read with `compute`."""

from utils.evaluation.metrics.classification import Classification
from utils.evaluation.metrics.published import PublishedProtocol
from utils.evaluation.metrics.volume_dice import VolumeDice

METRICS = {
    "classification": Classification,
    "published": PublishedProtocol,
    "volume_dice": VolumeDice,
}
