"""The layout of KiTS19, KiTS21 and KiTS23."""

import re
from collections import defaultdict
from pathlib import Path

from datasets.files import Scan, stem
from datasets.findings import Finding
from datasets.json_files import read_json
from datasets.layouts.cases import RawCase, RawDataset, is_volume, pair

HOMES = ("data", "dataset")  # where the repositories of KiTS19 and KiTS23 have their cases
LISTS = ("kits.json", "kits23.json")
IMAGE, LABEL, MAJORITY = "imaging", "segmentation", "aggregated_maj_seg"  # the last one is the label of KiTS21


def find_kits(found: Scan, _channel: int | None) -> RawDataset:
    """case_NNNNN/{imaging,segmentation}.nii.gz and kits.json, in the folder itself, in its `data` or its `dataset`."""
    folders = case_folders(found)
    cases, findings = [], _several_places(found, folders)
    for folder, files in folders.items():
        labels = files[LABEL] or files[MAJORITY]
        name = re.sub("^case_", "case_", folder.name, flags=re.IGNORECASE)
        twin = next((other for other in folders if other.name.lower() == folder.name.lower() and other < folder), None)
        if twin is not None:
            findings.append(Finding(folder, f"duplicate of {twin}, which is used", "keep one of them"))
            continue
        names = folder / f"{IMAGE}.nii.gz", folder / f"{LABEL}.nii.gz"
        both, problems = pair(found, names[0], files[IMAGE], names[1], labels)
        findings += problems
        if both:
            cases.append(RawCase(name, name, *both))
    names = {1: "kidney", 2: "tumor", 3: "cyst"}
    spacings = _spacings(found, {folder.parent for folder in folders})
    return RawDataset("kits", "CT", names, cases, findings, slice_size=512, spacings=spacings, millimetres=True)


def case_folders(found: Scan) -> dict[Path, dict[str, list[Path]]]:
    """The folders of cases, in order, and in each its files by kind: imaging, segmentation, aggregated_maj_seg."""
    inside = [folder for folder in found.folders if folder.parent == found.root and folder.name.lower() in HOMES]
    homes = [found.root, *inside]
    folders = [folder for folder in found.folders if folder.parent in homes and folder.name.lower().startswith("case_")]
    folders.sort()
    places = set(folders)
    found.take(lambda file: file.name.lower() in LISTS)
    found.keep(is_volume, "ending")
    found.keep(lambda file: file.parent in places, "place")
    kinds = (IMAGE, LABEL, MAJORITY)
    found.keep(lambda file: stem(file).lower() in kinds, "name")
    files: dict[Path, dict[str, list[Path]]] = {folder: defaultdict(list) for folder in folders}
    for file in (*found.files, *found.unusable):
        if file.parent in places and is_volume(file) and stem(file).lower() in kinds:
            files[file.parent][stem(file).lower()].append(file)
    return files


def _several_places(found: Scan, folders: dict[Path, dict[str, list[Path]]]) -> list[Finding]:
    homes = sorted({folder.parent for folder in folders})
    if len(homes) < 2:
        return []
    counts = [f"{sum(folder.parent == home for folder in folders)} in {home}" for home in homes]
    return [Finding(found.root, f"holds cases in several folders: {', '.join(counts)}", "all are used", bad=False)]


def _spacings(found: Scan, homes: set[Path]) -> dict[str, tuple[float, float, float]]:
    """(x, y, z) mm of every case in kits.json or kits23.json, beside the cases or in the folder above them."""
    beside = [home / name for home in sorted(homes) for name in LISTS]
    above = [home.parent / name for home in sorted(homes) for name in LISTS]
    spacings: dict[str, tuple[float, float, float]] = {}
    for file in (*above, *beside):  # what lies beside the cases wins
        if not file.is_file() or file in found.unusable:
            continue
        content = read_json(file)
        try:
            for entry in content:
                spacing = entry.get("voxel_spacing")
                if spacing:
                    spacings[entry["case_id"]] = tuple(float(spacing[f"{axis}_spacing"]) for axis in "xyz")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}: not a {file.name} ({error!r}): download it again or move it away") from None
    return spacings
