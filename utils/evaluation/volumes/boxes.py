"""The boxes that a locator chose, of the predictions in a folder."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.files import stem
from datasets.json_files import read_json
from datasets.volumes.scans import RECORD
from utils.evaluation.volumes.pairs import Pair


def with_boxes(pairs: Iterable[Pair], predictions: Path) -> list[Pair]:
    """The pairs with the box of each, where predict.py recorded one beside the predictions.

    Raises ValueError for a record that cannot be read.
    """
    file = (predictions.parent if predictions.is_file() else predictions) / RECORD
    known: dict[str, Any] = {}
    if file.is_file():
        content = read_json(file)
        known = content.get("cases", {}) if isinstance(content, dict) else {}
    pairs = list(pairs)
    for number, pair in enumerate(pairs):
        entry = known.get(stem(pair.prediction), {})
        if isinstance(entry, dict) and "box" in entry:
            last, middle, first = (slice(*ends) for ends in entry["box"])  # arrays are in the order of the file
            pairs[number] = replace(pair, box=(first, middle, last))
    return pairs
