"""A real label volume brought to the phantom's grid: the fraction of each voxel that is kidney, tumor or cyst."""

import numpy as np
from scipy import ndimage

CLASSES = (1, 2, 3)


class LabelReduction:
    """Fractions of kidney, tumor and cyst (1, 2, 3) of a label volume on its own grid or a coarser one.

    `label` (slices, H, W), `spacing` its (slice, row, column) in mm. `size` is the larger side of the coarser picture
    and `every` the number of slices averaged into one; slices that do not fill a last group are left out. `axes` holds
    the coordinates in mm (first voxel of the label = 0), `spacing` those of the result. Raises ValueError for a label
    that is not 3D, holds other values or no kidney, or when the grid would be finer than the label's.
    """

    def __init__(self, label: np.ndarray, spacing: tuple[float, float, float], size: int | None, every: int) -> None:
        if label.ndim != 3:
            raise ValueError(f"a label of shape {label.shape} is not a volume: give (slices, H, W)")
        label = _as_uint8(label)
        counts = sum(np.bincount(part[part > 0], minlength=256) for part in label)
        values = np.flatnonzero(counts)
        if len(values) and values[-1] > 3:
            raise ValueError(f"label values {values.tolist()}: only 0, 1 kidney, 2 tumor and 3 cyst are known")
        if 1 not in values:
            raise ValueError("the label holds no kidney (1): the phantom has nothing to be built around")
        longest = max(label.shape[1:])
        if size is not None and not 16 <= size <= longest:
            raise ValueError(f"a size of {size} does not reduce slices of {label.shape[1:]}: use 16 to {longest}")
        every = min(max(every, 1), label.shape[0])
        ratio = longest / (size or longest)
        rows, columns = (max(round(n / ratio), 1) for n in label.shape[1:])
        self.source, self.every, self.classes = label, every, [value for value in CLASSES if value in values]
        self.shape = (label.shape[0] // every, rows, columns)
        factors = (every, label.shape[1] / rows, label.shape[2] / columns)
        self.factors = factors
        self.spacing = tuple(float(s) * f for s, f in zip(spacing, factors, strict=True))
        self.axes = tuple(
            ((np.arange(n) + 0.5) * f - 0.5) * s for n, f, s in zip(self.shape, factors, spacing, strict=True)
        )
        self.reduced = self.shape != label.shape
        self._stored = self._compute(0, self.shape[0]) if self.reduced else None

    def fractions(self, start: int, stop: int) -> np.ndarray:
        """Kidney, tumor and cyst in slices `start` to `stop`: (3, stop - start, H, W) float32."""
        return self._compute(start, stop) if self._stored is None else self._stored[:, start:stop]

    def all_fractions(self) -> np.ndarray:
        """Kidney, tumor and cyst of the whole: (3, slices, H, W) float32."""
        return self.fractions(0, self.shape[0])

    def label(self) -> np.ndarray:
        """The label on this grid, uint8: the largest part of each voxel."""
        if self._stored is None:
            return self.source.copy()
        background = 1 - self._stored.sum(0, keepdims=True)
        return np.argmax(np.concatenate([background, self._stored]), axis=0).astype(np.uint8)

    def _compute(self, start: int, stop: int) -> np.ndarray:
        result = np.zeros((len(CLASSES), stop - start, *self.shape[1:]), np.float32)
        for number in range(start, stop):
            group = self.source[number * self.every : (number + 1) * self.every]
            if not group.any():
                continue
            for value in self.classes:
                part = (group == value).sum(0, dtype=np.uint16) * np.float32(1 / len(group))
                if self.shape[1:] == self.source.shape[1:]:
                    part = ndimage.gaussian_filter(part, 0.6)  # the staircase of the label is not anatomy
                else:
                    part = _area(_area(part, self.shape[1], 0), self.shape[2], 1)
                result[value - 1, number - start] = part
        return result


def _as_uint8(label: np.ndarray) -> np.ndarray:
    """The label with each slice in one piece of memory: NIfTI files scatter a KiTS slice over the whole array."""
    if label.dtype == np.uint8:
        return np.ascontiguousarray(label)
    result = np.empty(label.shape, np.uint8)
    for source, target in zip(label, result, strict=True):
        if not ((source >= 0) & (source <= 255) & (source == np.floor(source))).all():
            raise ValueError("the label holds values that are not class numbers: save it as integers 0, 1, 2")
        target[...] = source
    return result


def _area(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Mean over `size` equal parts of an axis, voxels cut by a border counted by their share."""
    values = np.moveaxis(values, axis, 0).astype(np.float64)
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    edge = np.arange(size + 1) * (values.shape[0] / size)
    whole = np.minimum(edge.astype(int), values.shape[0] - 1)
    at_edge = total[whole] + (edge - whole)[:, None] * values[whole]
    return np.moveaxis(np.diff(at_edge, axis=0) * (size / values.shape[0]), 0, axis).astype(np.float32)
