"""What a file beside an ONNX network says of it: how an image becomes its input, and what its output means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from datasets.findings import listed


@dataclass
class Sidecar:
    """A network of volumes (1, 1, D, H, W), or of slices (1, 1, H, W) along the first of the three axes.

    Args:
        classes: Names of the foreground classes. Channel 0 of the output is background, unless there is one channel for
            each class and the activation is not softmax.
        orientation: Where the three axes point as they grow, such as RAS (right, anterior, superior).
        spacing: The mm of a voxel along each of the three axes.
        patch: Voxels of the input, three or (slices) two.
        clip: Intensities (HU) are clipped to these two; null: they are not.
        mean: It is subtracted, after clipping; null: that of the volume.
        deviation: By which the rest is divided; null: the standard deviation of the volume.
        overlap: The share of a patch that the next one covers as well.
        activation: What makes probabilities of the output; none, where they are in it.
        license: What the authors ask.
    """

    classes: list[str]
    orientation: str
    spacing: list[float]
    patch: list[int]
    clip: list[float] | None = None
    mean: float | None = None
    deviation: float | None = None
    overlap: float = 0.5
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    license: str | None = None


def read_sidecar(file: Path) -> Sidecar:
    """Read and check a sidecar. Raises ValueError with one line for whatever is wrong."""
    if not file.is_file():
        raise ValueError(
            f"--sidecar {file}: no such file: it says what the network takes, see docs/your-own-teacher.md"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Sidecar)
    try:
        sidecar = Sidecar(**parser.instantiate(parser.parse_path(str(file))).as_dict())
    except Exception as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None
    if fault := _fault(sidecar):
        raise ValueError(f"{file}: {fault}")
    return sidecar


def _fault(sidecar: Sidecar) -> str | None:
    """What cannot be meant, in words; None where all can."""
    axes = {letter: pair for pair in ("LR", "PA", "IS") for letter in pair}
    if len({axes.get(letter) for letter in sidecar.orientation}) != 3 or len(sidecar.orientation) != 3:
        return f"orientation {sidecar.orientation}: give three letters, one each of L or R, P or A, I or S, such as RAS"
    if len(sidecar.spacing) != 3 or not all(0 < each < float("inf") for each in sidecar.spacing):
        return f"spacing {sidecar.spacing}: give three numbers of mm above 0"
    if len(sidecar.patch) not in (2, 3) or not all(each > 0 for each in sidecar.patch):
        return f"patch {sidecar.patch}: give three numbers of voxels, or two for a network of slices"
    if sidecar.clip is not None and (len(sidecar.clip) != 2 or not sidecar.clip[0] < sidecar.clip[1]):
        return f"clip {sidecar.clip}: give two numbers, the lower first, or null"
    if sidecar.deviation is not None and not sidecar.deviation > 0:
        return f"deviation {sidecar.deviation:g}: give a number above 0, or null for that of the volume"
    if not 0 <= sidecar.overlap < 1:
        return f"overlap {sidecar.overlap:g}: give a number from 0 to below 1"
    if not sidecar.classes or len(set(sidecar.classes)) < len(sidecar.classes):
        return f"classes {listed(sidecar.classes)}: name each foreground class, once"
    return None
