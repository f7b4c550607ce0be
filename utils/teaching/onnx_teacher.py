"""An ONNX network of any origin as the teacher, fed as its sidecar says: MONAI's sliding window, Gaussian weights.

Images are taken to its orientation and spacing linearly, the edges of the field of view in place, and probabilities
back to the voxels of the source in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from torch import Tensor

from utils.runs.onnx_engines import OnnxRuntime
from utils.teaching.grids import on_store, sampled, slices_affine
from utils.teaching.left_maps import seen_by
from utils.teaching.sidecar import Sidecar, read_sidecar
from utils.teaching.store import Store, StoreCase
from utils.teaching.teacher import Wish, kept
from utils.training import checkpoints
from utils.training.device import choose_device


class OnnxTeacher:
    """Answers with a network and its sidecar. Raises ValueError where the two do not fit, or a known leak."""

    def __init__(self, wish: Wish, store: Store) -> None:
        (path,) = wish.paths
        assert wish.sidecar is not None
        self.path, self.sidecar = path, read_sidecar(wish.sidecar)
        self._device = choose_device(wish.device, "32-true").device
        self._session = _opened(path, self.sidecar, self._device.type)
        self._try()
        batch = self._session.inputs[0][0]
        self._batch_size = batch if batch is not None else wish.batch_size or 1
        names = self.sidecar.classes
        self._places = kept(names, wish.only, wish.sidecar)
        self.classes = [names[place] for place in self._places]
        self.cases, self.sources = [case.name for case in store.cases], {}
        self.license = wish.license or self.sidecar.license
        self.teachers = [
            {
                "kind": "onnx",
                "path": str(path),
                "sha256": checkpoints.sha256(path),
                "license": self.license,
                "settings": asdict(self.sidecar),
            }
        ]
        seen, self.notes = seen_by(wish, store, path)
        self.patients = {"0": seen}

    def answer(self, case: StoreCase) -> tuple[Iterator[np.ndarray], list[int]]:
        """See `Teacher.answer`."""
        image = np.asarray(case.source_image(), np.float32)
        ours = slices_affine(case.geometry)
        theirs, shape = wanted_grid(ours, image.shape, self.sidecar.orientation, self.sidecar.spacing)
        scores = self.probabilities(scaled(sampled(image, ours, theirs, shape), self.sidecar))
        first = len(scores) - len(self.sidecar.classes)  # 1 behind background
        volumes = (sampled(scores[place + first], theirs, ours, image.shape) for place in self._places)
        return (on_store(np.clip(volume, 0, 1), case.grid) for volume in volumes), [0]

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Of each channel, (K + 1, D, H, W), or (K, D, H, W) without background. image: (D, H, W) as it takes them."""
        from monai.inferers import sliding_window_inference  # it takes a second

        flat = len(self.sidecar.patch) == 2
        logits = sliding_window_inference(
            torch.from_numpy(image)[None, None],
            (1, *self.sidecar.patch) if flat else tuple(self.sidecar.patch),
            self._batch_size,
            self._ask,
            overlap=(0, *[self.sidecar.overlap] * 2) if flat else self.sidecar.overlap,
            mode="gaussian",
        )[0]
        if self.sidecar.activation == "softmax":
            logits = logits.softmax(0)
        elif self.sidecar.activation == "sigmoid":
            logits = logits.sigmoid()
        return logits.numpy()

    def _ask(self, patches: Tensor) -> Tensor:
        """The answer (B, channels, D, H, W) to patches (B, 1, D, H, W); slices of one voxel for a network of slices."""
        flat, count = len(self.sidecar.patch) == 2, len(patches)
        values = (patches[:, :, 0] if flat else patches).contiguous().numpy()
        if (fixed := self._session.inputs[0][0]) is not None:  # the last batch may be shorter
            values = np.concatenate([values, np.zeros((fixed - count, *values.shape[1:]), np.float32)])
        answer = torch.from_numpy(self._session.run(values))[:count]
        return answer[:, :, None] if flat else answer

    def _try(self) -> None:
        """Ask about one empty patch. Raises ValueError where the answer is not what the sidecar says."""
        patch = (1,) * (3 - len(self.sidecar.patch)) + tuple(self.sidecar.patch)
        try:
            found = tuple(self._ask(torch.zeros(1, 1, *patch)).shape[1:])
        except Exception as error:  # the engine has exceptions of its own
            what = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.path}: cannot answer a patch of {self.sidecar.patch} ({what})") from None
        classes, softmax = len(self.sidecar.classes), self.sidecar.activation == "softmax"
        if found[1:] != patch or found[0] not in ((classes + 1,) if softmax else (classes, classes + 1)):
            several = f"{classes + 1} channels" if softmax else f"{classes} channels, or {classes + 1} with background,"
            raise ValueError(
                f"{self.path}: answers {found} to a patch {patch}, not {several} of the same size: name all classes in "
                "the sidecar's `classes`, without background, and `activation: sigmoid` where each channel is a class"
            )


def wanted_grid(
    affine: np.ndarray, shape: Sequence[int], orientation: str, spacing: Sequence[float]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The grid over the same field of view in another orientation and spacing: its affine and its shape.

    affine: voxel -> RAS mm of the grid that is there. The number of voxels is the nearest whole one, so that a voxel
    may measure a little more or less than `spacing`.
    """
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
    turned = affine @ inv_ornt_aff(turn, shape)
    lengths = [0, 0, 0]
    for axis, (place, _) in enumerate(turn):
        lengths[int(place)] = shape[axis]
    millimeters = np.linalg.norm(turned[:3, :3], axis=0)
    counts = [max(1, round(length * mm / each)) for length, mm, each in zip(lengths, millimeters, spacing, strict=True)]
    step = np.eye(4)
    for axis, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        step[axis, axis], step[axis, 3] = length / count, (length / count - 1) / 2
    return turned @ step, tuple(counts)


def scaled(image: np.ndarray, sidecar: Sidecar) -> np.ndarray:
    """Intensities as the network takes them."""
    if sidecar.clip is not None:
        image = np.clip(image, *sidecar.clip)
    mean = image.mean() if sidecar.mean is None else sidecar.mean
    deviation = (image.std() or 1.0) if sidecar.deviation is None else sidecar.deviation
    return ((image - mean) / deviation).astype(np.float32)


def _opened(path: Path, sidecar: Sidecar, device: str) -> OnnxRuntime:
    """Raises ValueError where the file is no network of patches as the sidecar has them."""
    try:
        session = OnnxRuntime(path, device)
    except Exception as error:  # the engine has exceptions of its own
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({what}): is the file whole?") from None
    wanted = (None, 1, *sidecar.patch)
    found = session.inputs[0] if len(session.inputs) == 1 else ()
    fits = len(found) == len(wanted) and all(b in (None, a) for a, b in zip(wanted[1:], found[1:], strict=True))
    if not fits or len(session.outputs) != 1 or not prod(wanted[1:]):
        raise ValueError(
            f"{path}: takes {[list(shape) for shape in session.inputs]}, not one float32 image of one channel and of "
            f"the sidecar's patch {sidecar.patch}"
        )
    return session
