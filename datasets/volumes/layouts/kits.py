"""The layout of KiTS19, KiTS21 and KiTS23."""

from collections import Counter, defaultdict
from pathlib import Path

from datasets.files import stem
from datasets.findings import Finding
from datasets.json_files import read_json
from datasets.scan import Scan
from datasets.volumes.layouts.cases import RawCase, RawDataset, is_volume, pair

HOMES = ("data", "dataset")  # where the repositories of KiTS19 and KiTS23 have their cases
LISTS = ("kits.json", "kits23.json")
IMAGE, LABEL, MAJORITY = "imaging", "segmentation", "aggregated_maj_seg"  # the last one is the label of KiTS21


def find_kits(found: Scan, _channel: int | None) -> RawDataset:
    """case_NNNNN/{imaging,segmentation}.nii.gz and kits.json, in the folder itself, in its `data` or its `dataset`."""
    folders, findings = case_folders(found)
    cases = []
    for folder, files in folders.items():
        names = folder / f"{IMAGE}.nii.gz", folder / f"{LABEL}.nii.gz"
        both, problems = pair(found, names[0], files[IMAGE], names[1], files[LABEL])
        findings += problems
        if both:
            name = case_name(folder)
            cases.append(RawCase(name, name, *both))
    names = {1: "kidney", 2: "tumor", 3: "cyst"}
    spacings = _spacings(found, {folder.parent for folder in folders})
    return RawDataset("kits", "CT", names, cases, findings, slice_size=512, spacings=spacings, millimetres=True)


def case_name(folder: Path) -> str:
    """The name of the case in a folder: case_00000, also for Case_00000."""
    return f"case_{folder.name[len('case_') :]}"


def case_folders(found: Scan) -> tuple[dict[Path, dict[str, list[Path]]], list[Finding]]:
    """The folders of cases, in order, and in each the files of its image and its label; what is odd about the folders.

    Files that the scan has a bad finding about are among them. A folder named as an earlier one is left out.
    """
    inside = [folder for folder in found.folders if folder.parent == found.root and folder.name.lower() in HOMES]
    homes = [found.root, *inside]
    folders = sorted(
        folder for folder in found.folders if folder.parent in homes and folder.name.lower().startswith("case_")
    )
    findings = []
    counts = Counter(folder.parent for folder in folders)
    if len(counts) > 1:
        where = ", ".join(f"{count} in {home}" for home, count in counts.items())
        findings.append(Finding(found.root, f"holds cases in several folders ({where})", "all are used", bad=False))
    first: dict[str, Path] = {}
    for folder in folders:
        twin = first.setdefault(folder.name.lower(), folder)
        if twin is not folder:
            findings.append(Finding(folder, f"duplicate of {twin}, which is used", "keep one of them"))
    places = set(folders)
    files: dict[Path, dict[str, list[Path]]] = {folder: defaultdict(list) for folder in first.values()}
    found.take(lambda file: file.name.lower() in LISTS)
    found.keep(is_volume, "ending")
    found.keep(lambda file: file.parent in places, "place")
    found.keep(lambda file: stem(file).lower() in (IMAGE, LABEL, MAJORITY), "name")
    for file in (*found.files, *filter(is_volume, found.unusable)):
        if file.parent in files:
            files[file.parent][stem(file).lower()].append(file)
    for kinds in files.values():
        kinds[LABEL] = kinds[LABEL] or kinds[MAJORITY]
    return files, findings


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
                    x, y, z = (float(spacing[f"{axis}_spacing"]) for axis in "xyz")
                    spacings[entry["case_id"]] = (x, y, z)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}: not a {file.name} ({error!r}): download it again or move it away") from None
    return spacings
