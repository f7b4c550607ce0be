"""Samples for training and evaluation. `datasets.DATASETS` maps a recipe's `data.name` to its class.

The registry is imported when it is asked for: slicing runs without torch or MONAI.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "DATASETS":
        from datasets.registry import DATASETS

        return DATASETS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
