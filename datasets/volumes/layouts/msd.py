"""The layout of the Medical Segmentation Decathlon and of nnU-Net: dataset.json with imagesTr and labelsTr."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets.files import stem
from datasets.findings import Finding
from datasets.scan import Scan
from datasets.volumes.layouts.cases import RawCase, RawDataset, is_volume, repeated
from datasets.volumes.layouts.datalist import Datalist, Entry, read_datalist
from datasets.volumes.layouts.lookup import CHANNEL, Volumes
from datasets.volumes.layouts.modality import modality_of_channel
from datasets.volumes.layouts.patients import patients_of


def find_msd(found: Scan, channel: int | None) -> RawDataset:
    """dataset.json with imagesTr and labelsTr; names and modality are taken from it.

    It lists its cases (MSD, MONAI), or leaves them to the names in the two folders (nnU-Net v2). A channel may be a
    file of its own: CASE_0000.nii.gz, CASE_0001.nii.gz and so on.
    """
    datalist = read_datalist(_datalist_file(found))
    findings = list(datalist.findings)
    found.keep(is_volume, "ending")
    volumes = Volumes(found)
    entries = _entries_of_folders(volumes, datalist) if datalist.entries is None else datalist.entries
    numbered = _are_numbered(volumes, entries)
    cases: list[RawCase] = []
    for entry in entries:
        case, problems = _case(volumes, datalist.file, entry, channel, numbered)
        cases += [case] if case else []
        findings += problems
    cases, problems = _without_repeats(cases)
    findings += problems + _unpaired(volumes, datalist, len(entries))
    cases, problems = _with_names(cases)
    patients, notes = patients_of([case.case for case in cases], datalist.file)
    cases = [replace(case, patient=patients[case.case]) for case in sorted(cases, key=lambda case: case.case)]
    one = {case.file_channel for case in cases}
    shown = one.pop() if channel is None and len(one) == 1 else channel
    modality, assumed = modality_of_channel(datalist.file, datalist.channels, shown)
    findings += problems + notes + assumed
    found.take(lambda file: file in volumes.used)
    found.keep(lambda file: False, "place" if datalist.entries is None else "absence from the training list")
    return RawDataset("msd", modality, datalist.labels, cases, findings, millimetres=modality == "CT")


def _datalist_file(found: Scan) -> Path:
    """The dataset.json of the folder. Raises ValueError where it is not there, or cannot be read."""
    wanted = found.root / "dataset.json"
    for finding in found.findings:
        if finding.bad and finding.file == wanted:
            raise ValueError(str(finding))
    files = [file for file in found.files if file.name.lower() == "dataset.json"]
    here = [file for file in files if file.parent == found.root]
    if not here:
        deeper = f"; there is {files[0]}, so give its folder" if files else ""
        raise ValueError(f"{wanted}: not found: --inpath is the folder of one task, such as Task04_Hippocampus{deeper}")
    found.take(lambda file: file == here[0])
    return here[0]


def _entries_of_folders(volumes: Volumes, datalist: Datalist) -> list[Entry]:
    """A case for every label in labelsTr, as nnU-Net v2 has them."""
    labels = volumes.unused("labelsTr")
    if not labels and not volumes.reported(volumes.root / "labelsTr"):
        what = "lists no training cases, and no labels lie in labelsTr beside it"
        raise ValueError(f"{datalist.file}: {what}: add the list, or put images in imagesTr and labels in labelsTr")
    names = [str(label.relative_to(volumes.root)) for label in labels]
    return [Entry(name, [str(Path("imagesTr", *Path(name).parts[1:]))], name) for name in names]


def _are_numbered(volumes: Volumes, entries: Sequence[Entry]) -> bool:
    """Whether CASE_0000 is a channel of CASE throughout, and not a case that happens to be named so."""
    single = [entry.images[0] for entry in entries if len(entry.images) == 1]
    return all(volumes.channels(image) for image in single) and not all(volumes.find(image) for image in single)


def _case(
    volumes: Volumes, file: Path, entry: Entry, channel: int | None, numbered: bool
) -> tuple[RawCase | None, list[Finding]]:
    """The case of an entry, or what is wrong with it; its patient is not known yet."""
    if Path(entry.images[0].replace("\\", "/")).name.startswith("."):
        what = f"names a hidden file ({entry.where}: {entry.images[0]}), which is not a case"
        return None, [Finding(file, what, "take it out of the list", bad=False)]
    name, files = _image_files(volumes, entry, channel, numbered)
    labels = _label_files(volumes, entry, name)
    volumes.use([*(path for paths in files.values() for path in paths), *labels])
    only = next(iter(files)) if len(files) == 1 else None
    chosen = only if None in files or channel is None else channel
    if chosen not in files:
        numbers = ", ".join(map(str, files))
        what = f"has channels {numbers}" if channel is None else f"has no channel {channel}"
        first = next((path for paths in files.values() for path in paths), volumes.root / entry.images[0])
        return None, [Finding(first, f"{what}, a file each", f"choose one with --channel: {numbers}")]
    images, findings = files[chosen], []
    if not images:
        written = entry.images[chosen or 0] if len(entry.images) > 1 else entry.images[0]
        findings += _missing(volumes, file, entry, written)
    if not labels:
        findings += _missing(volumes, file, entry, entry.label or f"labelsTr/{name}.nii.gz")
    findings += [*repeated(images), *repeated(labels)]
    if findings or any(volumes.reported(path) for path in (*images, *labels)) or not (images and labels):
        return None, findings
    return RawCase(name, name, images[0], labels[0], file_channel=chosen), findings


def _image_files(
    volumes: Volumes, entry: Entry, channel: int | None, numbered: bool
) -> tuple[str, dict[int | None, list[Path]]]:
    """The name of a case and the files of its image: one under None, or one per channel.

    CASE_0000 is a channel of CASE only beside the label CASE, or where its entry lists CASE. Where a channel is listed
    and none is asked for, it is that one.
    """
    listed = entry.images[0].replace("\\", "/")
    if entry.label is None and "/" not in listed:
        listed = f"imagesTr/{listed}"
    name = stem(Path(listed))
    label = None if entry.label is None else stem(Path(entry.label.replace("\\", "/")))
    match = CHANNEL.fullmatch(name)
    channel_of = match[1] if match and label is not None and match[1].casefold() == label.casefold() else None
    if len(entry.images) > 1:
        return label or name, {number: volumes.find(image) for number, image in enumerate(entry.images)}
    channels, exact = volumes.channels(listed), volumes.find(listed)
    if channels and (numbered or not exact):
        return name, channels
    if exact and channel_of:
        channels = volumes.channels(str(Path(listed).with_name(channel_of)))
        return channel_of, {int(match[2]): exact} if channel is None else {**channels, int(match[2]): exact}
    return name, {None: exact}


def _label_files(volumes: Volumes, entry: Entry, name: str) -> list[Path]:
    if entry.label is not None:
        return volumes.find(entry.label)
    match = CHANNEL.fullmatch(name)  # an entry that is a name only: its label is in labelsTr
    return volumes.find(f"labelsTr/{name}") or (volumes.find(f"labelsTr/{match[1]}") if match else [])


def _missing(volumes: Volumes, file: Path, entry: Entry, written: str) -> list[Finding]:
    """A listed file that is not there; nothing where the scan has said why."""
    path = volumes.root / written.replace("\\", "/")
    if volumes.reported(path):
        return []
    if entry.where == entry.label:  # a label in labelsTr, which no list names
        return [Finding(path, f"missing, the image of {entry.label}", "add it, or move the label away")]
    other = volumes.alike(path)
    if len(other) == 1:
        remedy = f"correct the path in {file.name} ({other[0]} has this name)"
    else:
        remedy = f"copy or download it again, or correct {file.name}"
    return [Finding(path, f"missing, though {file.name} names it ({entry.where})", remedy)]


def _without_repeats(cases: Sequence[RawCase]) -> tuple[list[RawCase], list[Finding]]:
    """The cases whose image is not that of an earlier one, and a finding for each of the others."""
    first: dict[str, RawCase] = {}
    findings = []
    for case in cases:
        earlier = first.setdefault(os.path.realpath(case.image), case)
        if earlier is not case:
            label = "" if earlier.label == case.label else f", with the labels {earlier.label} (used) and {case.label}"
            findings.append(Finding(case.image, f"listed twice in dataset.json{label}", "list every case once"))
    return list(first.values()), findings


def _with_names(cases: Sequence[RawCase]) -> tuple[list[RawCase], list[Finding]]:
    """Cases of equal file names (a/image.nii.gz, b/image.nii.gz) go by their folders; others stay as they are."""
    counts = Counter(case.case for case in cases)
    equal = [case for case in cases if counts[case.case] > 1]
    if not equal:
        return list(cases), []
    above = os.path.commonpath([case.image.parent.absolute() for case in equal])
    several = len({case.case for case in equal}) > 1
    named, findings, seen = [], [], {}
    for case in cases:
        name = case.case
        if counts[name] > 1:
            parts = case.image.parent.absolute().relative_to(above).parts
            name = "_".join([*parts, name] if several or not parts else parts)
        if name in seen:
            findings.append(Finding(case.image, f"has the name of {seen[name]}", "rename one of them, and its label"))
            continue
        seen[name] = case.image
        named.append(replace(case, case=name))
    return named, findings


def _unpaired(volumes: Volumes, datalist: Datalist, count: int) -> list[Finding]:
    """Findings about what lies in imagesTr and labelsTr, and belongs to no case."""
    images = [image for image in volumes.unused("imagesTr") if not volumes.reported(image)]
    if datalist.entries is None:
        remedy = "add it, or move the image to imagesTs"
        closed = volumes.reported(volumes.root / "labelsTr")
        findings = [Finding(image, "has no label in labelsTr", remedy) for image in images if not closed]
        if datalist.count not in (None, count) and not closed:
            what, remedy = f"numTraining is {datalist.count}, but labelsTr holds {count} labels", "see which are absent"
            findings.append(Finding(datalist.file, what, remedy, bad=False))
        return findings
    names = {re.sub(r"_\d{4}$", "", stem(image)) for image in images} | {stem(image) for image in images}
    pairs = [label for label in volumes.unused("labelsTr") if stem(label) in names]
    if not pairs:
        return []
    what = f"does not list {len(pairs)} cases that lie in imagesTr and labelsTr, such as {pairs[0].name}"
    return [Finding(datalist.file, what, "add them to training, if they are meant to be used", bad=False)]
