"""The layout of ACDC."""

import re
from collections import defaultdict
from pathlib import Path

from datasets.files import stem
from datasets.findings import Finding
from datasets.scan import Scan
from datasets.volumes.layouts.cases import RawCase, RawDataset, is_volume, pair

NAME = re.compile(r"(patient\d+)_frame(\d+)(_gt)?", re.IGNORECASE)


def find_acdc(found: Scan, _channel: int | None) -> RawDataset:
    """patientNNN/patientNNN_frameNN[_gt].nii.gz with Info.cfg, in any folder; two frames a patient.

    Sliced along the third axis of the file: the stack is short-axis, and no anatomical axis lies along it.
    """
    infos = {file.parent: file for file in found.take(lambda file: file.name.lower() == "info.cfg")}
    found.keep(is_volume, "ending")
    found.keep(lambda file: bool(NAME.fullmatch(stem(file))), "name")
    frames: dict[tuple[str, int], dict[bool, list[Path]]] = defaultdict(lambda: defaultdict(list))
    folders: dict[Path, str] = {}
    for file in (*found.files, *found.unusable):
        if is_volume(file) and (match := NAME.fullmatch(stem(file))):
            folders[file.parent] = match[1].lower()
            frames[match[1].lower(), int(match[2])][match[3] is not None].append(file)
    findings = []
    for folder, patient in sorted(folders.items()):
        findings += _compare_with_info(found, folder, patient, infos.get(folder), set(frames))
    cases = []
    for (patient, frame), files in sorted(frames.items()):
        name, home = f"{patient}_frame{frame:02d}", next(path.parent for paths in files.values() for path in paths)
        names = home / f"{name}.nii.gz", home / f"{name}_gt.nii.gz"
        both, problems = pair(found, names[0], files[False], names[1], files[True])
        findings += problems
        if both:
            cases.append(RawCase(name, patient, *both))
    names = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    return RawDataset("acdc", "MR", names, cases, findings, slice_axis=2)


def _compare_with_info(
    found: Scan, folder: Path, patient: str, info: Path | None, frames: set[tuple[str, int]]
) -> list[Finding]:
    """Findings about a patient's Info.cfg, and about frames that it names and that are missing."""
    if info is None:
        if any(file.parent == folder and file.name.lower() == "info.cfg" for file in found.unusable):
            return []
        remedy = "copy it from the download: it names the two frames"
        return [Finding(folder / "Info.cfg", "missing", remedy, bad=False)]
    text = info.read_text(encoding="utf-8-sig", errors="replace")
    named = {int(number) for number in re.findall(r"^\s*E[DS]\s*[:=]\s*(\d+)", text, re.MULTILINE | re.IGNORECASE)}
    if not named:
        what, remedy = "names no frame (ED, ES)", "copy it from the download: it names the two frames"
        return [Finding(info, what, remedy, bad=False)]
    absent = [f"{patient}_frame{number:02d}" for number in sorted(named) if (patient, number) not in frames]
    remedy = "download the patient again"
    return [
        Finding(folder / f"{name}.nii.gz", f"named in Info.cfg, but {name}.nii.gz is missing", remedy)
        for name in absent
    ]
