"""What a raw layout finds: cases, each an image with its label, and whatever could not be paired."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.findings import Finding
from datasets.scan import Scan
from datasets.volumes.dicom_files import SeriesFiles

OTHER_VOLUMES = (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".mgz")
Modality = Literal["CT", "MR"]
TUMOR_WORDS = ("tumor", "tumour", "cancer", "lesion")


@dataclass(frozen=True)
class RawCase:
    """One image with its label. Cases of one patient share `patient` and never fall into different splits.

    label: None where the dataset has none. file_channel: the channel that `image` is, where every channel is a file of
    its own; else None. series: the files of a DICOM series, of which `image` is the folder; else None.
    """

    case: str
    patient: str
    image: Path
    label: Path | None
    file_channel: int | None = None
    series: SeriesFiles | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        images = (self.image,) if self.series is None else self.series.files
        return images if self.label is None else (*images, self.label)


@dataclass(frozen=True)
class RawDataset:
    """The cases of a folder and what their numbers mean; without `labels` there are scans only.

    findings: what could not be read or paired. slice_axis: the file's axis to slice along where the anatomy does not
    decide it. slice_size: rows and columns a slice is known to have. spacings: (x, y, z) mm per case from a list beside
    the data. millimetres: an identity affine is a loss here. passed_over: one line about the files of no case.
    """

    name: str
    modality: Modality
    labels: dict[int, str]
    cases: list[RawCase]
    findings: list[Finding] = field(default_factory=list)
    slice_axis: int | None = None
    slice_size: int | None = None
    spacings: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    millimetres: bool = False
    passed_over: str | None = None

    @property
    def tumor_labels(self) -> list[int]:
        return [value for value, name in self.labels.items() if any(word in name.lower() for word in TUMOR_WORDS)]


def is_volume(path: Path) -> bool:
    """Whether a file is named as a NIfTI volume, in capitals or not."""
    return ending(path) in NIFTI_ENDINGS


def repeated(paths: Sequence[Path]) -> list[Finding]:
    """Findings about files that are the same part of the same case as the first one."""
    return [Finding(path, f"duplicate of {paths[0]}", "keep one of them") for path in paths[1:]]


def pair(
    found: Scan, image: Path, images: Iterable[Path], label: Path, labels: Iterable[Path]
) -> tuple[tuple[Path, Path] | None, list[Finding]]:
    """Pair what was found for one case; `image` and `label` are the names to give where nothing was.

    images, labels: the files found, those with a finding of the scan included, which is not repeated here. A case with
    two images or two labels is kept out, since one would have to be guessed.
    """
    images, labels = sorted(images), sorted(labels)
    findings = [*repeated(images), *repeated(labels)]
    elsewhere = f"see whether it lies in {found.closed[0]}, which cannot be read" if found.closed else None
    homes = {file.parent for file in (image, label, *images, *labels)}
    if not images:
        what, remedy = _converted(found, image, homes) or ("missing", elsewhere or "download the image of this case")
        findings.append(Finding(image, what, remedy))
    if not labels and (other := _converted(found, label, homes)):
        findings.append(Finding(label, *other))
    elif not labels:
        remedy = elsewhere or "nothing to do if it is a test case: it is left out"
        findings.append(Finding(label, "missing, the case has no label", remedy, bad=False))
    whole = len(images) == len(labels) == 1 and not {*images, *labels} & set(found.unusable)
    return ((images[0], labels[0]) if whole else None), findings


def _converted(found: Scan, missing: Path, homes: Collection[Path]) -> tuple[str, str] | None:
    """What to say where a missing volume lies in one of these folders in a format that is not read."""
    for file in found.passed.get("ending", ()):
        named = file.name.lower().startswith(f"{stem(missing).lower()}.")
        if named and file.parent in homes and ending(file) in OTHER_VOLUMES:
            return f"missing, there is {file.name}", "convert that to .nii.gz"
    return None
