"""Which window of a slice training sees, and how it is turned and changed."""

from collections.abc import Sequence

import numpy as np

from datasets.batches.moves import Moves, exact_moves
from datasets.slices.augmentation import DRAWN, Augment
from datasets.slices.crops import Foreground, central_corners, foreground_corners


class Views:
    """Crops, flips and turns of training slices, and the changes that follow: by drawn numbers alone.

    Args:
        side: Of the square samples, in pixels.
        crop_mode: `center`, or `foreground`: about a random foreground pixel of slices that have one.
        augment: See `Augment`.

    Attributes:
        count: How many different samples come of a slice; 0 where none comes twice.
    """

    def __init__(self, side: int, crop_mode: str, augment: Sequence[str]) -> None:
        self.side, self.crop_mode = side, crop_mode
        self._augment = Augment(augment, side)
        self.count = self._augment.views if crop_mode == "center" else 0

    def __call__(
        self, drawn: np.ndarray, lengths: np.ndarray, found: Sequence[Foreground | None]
    ) -> tuple[Moves, dict[str, np.ndarray]]:
        """The moves of slices, and the tables of `Augment.changes`.

        drawn: (B, len(DRAWN)) in [0, 1). lengths: int64 (B, 2), heights and widths. found: the foreground of each.
        """
        uniform = dict(zip(DRAWN, drawn.T, strict=True))
        size = self.side, self.side
        corners = central_corners(lengths, size)
        if self.crop_mode == "foreground":
            corners = foreground_corners(lengths, self.side, found, drawn[:, :3])
        turned = self._augment.flips(uniform), self._augment.turns(uniform)
        return exact_moves(lengths[:, 0], lengths[:, 1], corners, size, *turned), self._augment.changes(uniform)
