"""The layout of LiTS."""

import re
from collections import defaultdict
from pathlib import Path

from datasets.files import stem
from datasets.scan import Scan
from datasets.volumes.layouts.cases import RawCase, RawDataset, is_volume, pair

NAME = re.compile(r"(volume|segmentation)-(\d+)", re.IGNORECASE)


def find_lits(found: Scan, _channel: int | None) -> RawDataset:
    """volume-N.nii[.gz] and segmentation-N.nii[.gz], in any folder (Training_Batch1, Training_Batch2)."""
    found.keep(is_volume, "ending")
    found.keep(lambda file: bool(NAME.fullmatch(stem(file))), "name")
    files: dict[int, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in (*found.files, *found.unusable):
        if is_volume(file) and (match := NAME.fullmatch(stem(file))):
            files[int(match[2])][match[1].lower()].append(file)
    cases, findings = [], []
    for number, mine in sorted(files.items()):
        names = found.root / f"volume-{number}.nii", found.root / f"segmentation-{number}.nii"
        both, problems = pair(found, names[0], mine["volume"], names[1], mine["segmentation"])
        findings += problems
        if both:
            cases.append(RawCase(f"volume-{number}", f"volume-{number}", *both))
    return RawDataset("lits", "CT", {1: "liver", 2: "tumor"}, cases, findings, slice_size=512, millimetres=True)
