"""Find the cases of the published raw layouts: KiTS, LiTS, MSD and nnU-Net, ACDC (see docs/data.md)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from datasets.scan import Scan, scan
from datasets.volumes.layouts.acdc import find_acdc
from datasets.volumes.layouts.cases import RawCase, RawDataset
from datasets.volumes.layouts.kits import find_kits
from datasets.volumes.layouts.lits import find_lits
from datasets.volumes.layouts.msd import find_msd

__all__ = ["LAYOUTS", "RawCase", "RawDataset", "find_cases"]

# A layout finds its cases among the files of a scan; the channel asked for decides the modality where it differs.
LAYOUTS: dict[str, Callable[[Scan, int | None], RawDataset]] = {
    "kits": find_kits,
    "lits": find_lits,
    "msd": find_msd,
    "acdc": find_acdc,
}
LAYOUT_EXAMPLES = {
    "kits": "case_00000/imaging.nii.gz and case_00000/segmentation.nii.gz",
    "lits": "volume-0.nii and segmentation-0.nii",
    "msd": "dataset.json with its imagesTr and labelsTr",
    "acdc": "patient001/patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz",
}


def find_cases(dataset: str, root: Path, channel: int | None = None) -> RawDataset:
    """List the cases of a folder in a published layout, and what was passed over there.

    channel: the one asked for of images that have several. Raises ValueError when there is no case, and OSError when
    the folder cannot be read.
    """
    if channel is not None and channel < 0:
        raise ValueError(f"--channel {channel}: channels are counted from 0")
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise ValueError(f"{root}: {what}: give the folder of the raw volumes as --inpath")
    found = scan(root)
    raw = LAYOUTS[dataset](found, channel)
    raw = replace(raw, findings=[*found.findings, *raw.findings], passed_over=found.summary)
    if not raw.cases and not raw.findings:
        rest = "" if raw.passed_over is None else f" ({raw.passed_over.removeprefix(f'{root}: ')})"
        raise ValueError(f"{root}: no {dataset} case found{rest}: expected {LAYOUT_EXAMPLES[dataset]}")
    return raw
