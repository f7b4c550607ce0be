"""Which DICOM files below a folder make a series, by their tags and wherever they lie, and what lies beside it.

A slice that is missing at an end of a volume cannot be noticed: the rest looks whole. So any file that may be a slice
and cannot be read makes its series doubtful, and a doubtful series is refused.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending
from datasets.findings import Finding
from datasets.scan import Scan
from datasets.volumes.dicom_tags import (
    IN_ACQUISITION,
    INSTANCE,
    PATIENT,
    POSITION,
    SERIES,
    SERIES_NUMBER,
    STUDY,
    Tags,
    read_tags,
)

SLICE_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
CUT_ENDINGS = {".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".gz", ".zip", ".icloud"}
DIRECTORY = "DICOMDIR"
REMEDY = "export the series again, or move this file away if it is not a slice of it"
NAMED = 4  # of what lies beside a series


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series, in no order; `folder` is the deepest that holds them all.

    label: its name among several series of the folder, else empty. doubts: why it may be incomplete.
    """

    folder: Path
    files: tuple[Path, ...]
    label: str
    doubts: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Image:
    file: Path
    tags: Tags


@dataclass
class _Sorted:
    """The files of a scan that are not NIfTI, sorted by what they are."""

    images: list[_Image]
    beside: dict[Path, str]  # DICOM files that are not slices, and their kind
    damaged: dict[Path, Finding]
    others: list[Path]


def group_series(found: Scan) -> list[SeriesFiles]:
    """Find the series among the files of a scan; NIfTI files are left to others, the rest is passed over.

    A series spread over folders is one; where each of them has all positions, each has a copy. Several series in one
    folder are one each, unless one of them has a single slice: these are handed on as one, a mixture. Findings about
    what may be a slice become doubts of its series; files that are called DICOM, are none, and lie where there is no
    series become findings.
    """
    parts = _sort(found)
    groups = [folder for images in _by_series(parts.images) for folder in _by_copy(images)]
    groups = _merge_mixtures(groups)
    homes = [_home(group) for group in groups]
    folders = [{image.file.parent for image in group} for group in groups]
    slices: dict[Path, list[Path]] = defaultdict(list)  # by folder
    for image in parts.images:
        slices[image.file.parent].append(image.file)
    doubts: list[list[Finding]] = [[] for _ in groups]
    orphans: dict[Path, list[Finding]] = defaultdict(list)

    def doubt(finding: Finding) -> bool:
        """Whether it is a doubt of a series: of those in its folder, else of those around it."""
        near = [n for n, mine in enumerate(folders) if finding.file.parent in mine]
        around = [n for n, home in enumerate(homes) if home in finding.file.parents]
        for number in near or around:
            doubts[number].append(finding)
        return bool(near or around)

    for file, finding in parts.damaged.items():
        if not doubt(finding):
            orphans[file.parent].append(finding)
    for file in (
        *parts.others,
        *(path for path in found.passed.get("hidden name", ()) if not path.name.startswith("._")),
    ):
        finding = Finding(file, "is empty" if _empty(file) else "is not a whole DICOM file", REMEDY)
        if _may_be_slice(file, slices[file.parent], readable=True) and doubt(finding):
            continue
        if not file.name.startswith("."):
            if ending(file) in SLICE_ENDINGS:
                orphans[file.parent].append(finding)
            else:
                found.pass_over(file, "ending")
    found.findings = [
        finding
        for finding in found.findings
        if not (
            finding.bad
            and (finding.file.is_dir() or _may_be_slice(finding.file, slices[finding.file.parent], readable=False))
            and doubt(finding)
        )
    ]
    for files in orphans.values():
        first, count = files[0], len(files) - 1
        what = f"{first.what} (and {count} more in its folder)" if count else first.what
        found.findings.append(Finding(first.file, what, "export the series again"))
    for file, kind in parts.beside.items():
        found.pass_over(file, f"kind {kind}")
    labels = _labels(groups, homes)
    return [
        SeriesFiles(home, tuple(image.file for image in group), label, tuple(why), tuple(_notes(group, parts)))
        for group, home, label, why in zip(groups, homes, labels, doubts, strict=True)
    ]


def _sort(found: Scan) -> _Sorted:
    parts = _Sorted([], {}, {}, [])
    for file in found.files:
        if ending(file) in NIFTI_ENDINGS:
            continue
        if file.name.upper() == DIRECTORY:
            parts.beside[file] = DIRECTORY
            continue
        try:
            tags = read_tags(file)
        except OSError as error:
            parts.damaged[file] = Finding(file, f"cannot be read ({error.strerror})", REMEDY)
            continue
        if tags is None:
            parts.others.append(file)
        elif tags.beside is not None:
            parts.beside[file] = tags.beside
        elif tags.damage is not None:
            parts.damaged[file] = Finding(file, f"damaged DICOM, {tags.damage}", REMEDY)
        else:
            parts.images.append(_Image(file, tags))
    return parts


def _by_series(images: Iterable[_Image]) -> list[list[_Image]]:
    """Images of one patient, study and series; without the number of a series, those of one folder."""
    groups: dict[tuple, list[_Image]] = defaultdict(list)
    for image in images:
        key = (image.tags[PATIENT], image.tags[STUDY], image.tags[SERIES])
        groups[key if image.tags[SERIES] else (*key, image.file.parent)].append(image)
    return list(groups.values())


def _by_copy(images: list[_Image]) -> list[list[_Image]]:
    """Part what lies in several folders where each of them has all positions, as copies have."""
    folders: dict[Path, list[_Image]] = defaultdict(list)
    for image in images:
        folders[image.file.parent].append(image)
    places = [{image.tags[POSITION] for image in part} for part in folders.values()]
    copies = len(folders) > 1 and all(each == places[0] for each in places)
    return list(folders.values()) if copies else [images]


def _merge_mixtures(groups: list[list[_Image]]) -> list[list[_Image]]:
    """Put together the series of a folder where one has a single slice: it may belong to another one."""
    merged: list[list[_Image]] = []
    singles = [group for group in groups if len(group) == 1]
    rest = [group for group in groups if len(group) > 1]
    for folder in dict.fromkeys(group[0].file.parent for group in singles):
        lonely = [group for group in singles if group[0].file.parent == folder]
        joined = [group for group in rest if any(image.file.parent == folder for image in group)]
        rest = [group for group in rest if group not in joined]
        merged.append([image for group in (*joined, *lonely) for image in group])
    return sorted(rest + merged, key=lambda group: group[0].file)


def _home(group: list[_Image]) -> Path:
    return Path(os.path.commonpath([image.file.parent for image in group]))


def _labels(groups: list[list[_Image]], homes: list[Path]) -> list[str]:
    """Labels for several series of one folder: their SeriesNumber where all differ, else their UID."""
    labels = [""] * len(groups)
    for home, count in Counter(homes).items():
        if count > 1:
            mine = [number for number, folder in enumerate(homes) if folder == home]
            numbers = [groups[number][0].tags[SERIES_NUMBER] for number in mine]
            distinct = "" not in numbers and len(set(numbers)) == count
            for number in mine:
                labels[number] = groups[number][0].tags[SERIES_NUMBER if distinct else SERIES]
    return labels


def _may_be_slice(file: Path, slices: list[Path], readable: bool) -> bool:
    """Whether a file that is not DICOM may be meant as a slice, by its name and the names of the slices around it."""
    name = file.name.lower()
    own = {path.name.lower() for path in slices}
    hidden = name.startswith(".")
    name = name.removeprefix(".")
    rest = Path(name).stem
    if rest in own:
        return False  # left over beside the whole file, as by an editor or a download
    if any(f"{part}." in f"{name}." for part in SLICE_ENDINGS):
        return True
    shapes = {_shape(each) for each in own}
    if _shape(name) in shapes or (_shape(rest) in shapes and (hidden or Path(name).suffix in CUT_ENDINGS)):
        return True
    if not any(_bare(each) for each in own) or not _bare(name):
        return False
    return not (readable and _is_text(file))


def _shape(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _bare(name: str) -> bool:
    """Whether a name has no ending: `IM5`, `1.2.840.5`."""
    return not re.search(r"\.[a-z]\w*$", name)


def _is_text(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            start = content.read(1024)
        return bool(start) and b"\0" not in start and bool(start.decode("utf-8", "ignore"))
    except OSError:
        return False


def _empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:
        return False


def _notes(group: list[_Image], parts: _Sorted) -> list[str]:
    """What lies beside a series, and what its numbers say of slices that are not there."""
    notes = []
    folders = {image.file.parent for image in group}
    beside = [f"{file.name} ({kind})" for file, kind in parts.beside.items() if file.parent in folders]
    beside += [file.name for file in parts.others if file.parent in folders]
    if beside:
        more = f" and {len(beside) - NAMED} more" if len(beside) > NAMED else ""
        notes.append(f"left out, not slices of the series: {', '.join(beside[:NAMED])}{more}")
    numbers = {image.tags.number(INSTANCE) for image in group}
    first = min(numbers) if None not in numbers else 1
    if first > 1:
        notes.append(f"InstanceNumber begins at {first}: slices may be missing at an end: compare with the archive")
    expected = group[0].tags.number(IN_ACQUISITION)
    if expected is not None and expected > len(group):
        notes.append(f"ImagesInAcquisition is {expected}, {len(group)} slices are here: compare with the archive")
    return notes
