"""Find the cases of the published raw layouts (KiTS, LiTS, MSD and nnU-Net, ACDC) and of scans alone: docs/data.md."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from datasets.scan import Scan, scan
from datasets.volumes.layouts.acdc import find_acdc
from datasets.volumes.layouts.cases import Modality, RawCase, RawDataset
from datasets.volumes.layouts.kits import find_kits
from datasets.volumes.layouts.lits import find_lits
from datasets.volumes.layouts.msd import find_msd
from datasets.volumes.layouts.unlabeled import UNLABELED, find_unlabeled

__all__ = ["LAYOUTS", "UNLABELED", "RawCase", "RawDataset", "find_cases"]

# A layout finds its cases among the files of a scan; the channel asked for decides the modality where it differs.
LAYOUTS: dict[str, Callable[[Scan, int | None], RawDataset]] = {
    "kits": find_kits,
    "lits": find_lits,
    "msd": find_msd,
    "acdc": find_acdc,
    UNLABELED: find_unlabeled,
}
LAYOUT_EXAMPLES = {
    "kits": "case_00000/imaging.nii.gz and case_00000/segmentation.nii.gz",
    "lits": "volume-0.nii and segmentation-0.nii",
    "msd": "dataset.json with its imagesTr and labelsTr",
    "acdc": "patient001/patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz",
    UNLABELED: "scan.nii.gz, or folders of DICOM series",
}


def find_cases(dataset: str, root: Path, channel: int | None = None, modality: Modality | None = None) -> RawDataset:
    """List the cases of a folder in a published layout, and what was passed over there.

    channel: the one asked for of images that have several. modality: of unlabeled NIfTI files. Raises ValueError when
    there is no case, and OSError when the folder cannot be read.
    """
    if channel is not None and channel < 0:
        raise ValueError(f"--channel {channel}: channels are counted from 0")
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise ValueError(f"{root}: {what}: give the folder of the raw volumes as --inpath")
    if modality is not None and dataset != UNLABELED:
        raise ValueError(f"--modality {modality}: {dataset} says what its images are: leave it out")
    find = LAYOUTS[dataset] if modality is None else partial(find_unlabeled, modality=modality)
    found = scan(root)
    raw = find(found, channel)
    raw = replace(raw, findings=[*found.findings, *raw.findings], passed_over=found.summary)
    if not raw.cases and not raw.findings:
        rest = "" if raw.passed_over is None else f" ({raw.passed_over.removeprefix(f'{root}: ')})"
        raise ValueError(f"{root}: no {dataset} case found{rest}: expected {LAYOUT_EXAMPLES[dataset]}")
    return raw
