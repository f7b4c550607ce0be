"""What a dataset.json says, in any of its forms: Decathlon (MSD), nnU-Net v1 and v2, MONAI lists."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.files import NIFTI_ENDINGS
from datasets.findings import Finding
from datasets.json_files import read_json


@dataclass(frozen=True)
class Entry:
    """A listed case, its paths as they are written. images: one file, or one per channel. label: None if not named."""

    where: str
    images: list[str]
    label: str | None


@dataclass
class Datalist:
    """A dataset.json. entries: None where the cases are what lies in imagesTr and labelsTr (nnU-Net v2)."""

    file: Path
    labels: dict[int, str]
    channels: dict[int, str]
    entries: list[Entry] | None
    count: int | None
    findings: list[Finding] = field(default_factory=list)


def read_datalist(file: Path) -> Datalist:
    """Read a dataset.json. Raises ValueError where it cannot be used at all; an unusable entry is a finding."""
    content = read_json(file)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{file}: holds a {kind}, not an object: is it the dataset.json of this task?")
    if "labels" not in content:
        raise ValueError(f'{file}: has no labels: add "labels": {{"0": "background", "1": "liver"}}, or as it is here')
    suffix = str(content.get("file_ending", ".nii.gz"))
    if suffix.lower() not in NIFTI_ENDINGS:
        raise ValueError(f"{file}: file_ending {suffix!r}: only .nii and .nii.gz are read: convert the volumes")
    labels, findings = _labels(file, content["labels"])
    # modality wins: nnU-Net v2's channel_names may name a normalization instead
    channels = _channels(file, content.get("channel_names") or {}) | _channels(file, content.get("modality") or {})
    entries, problems = _entries(file, content)
    count = content.get("numTraining")
    return Datalist(file, labels, channels, entries, count if isinstance(count, int) else None, [*findings, *problems])


def _whole(value: Any) -> int | None:
    """A whole number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value) if float(value) == int(float(value)) else None
    except (ValueError, OverflowError):
        return None


def _labels(file: Path, listed: Any) -> tuple[dict[int, str], list[Finding]]:
    """Label values above 0 and their names, from {value: name} (MSD) or {name: value or values} (nnU-Net v2)."""
    if not isinstance(listed, dict):
        what = f"labels is a {type(listed).__name__}"
        raise ValueError(f'{file}: {what}: give {{"0": "background", "1": "liver"}}, or as it is here')
    pairs: list[tuple[str, list[int | None]]] = []
    for key, value in listed.items():
        if isinstance(value, list):
            pairs.append((key, [_whole(part) for part in value]))
        elif isinstance(value, str) and _whole(key) is not None:
            pairs.append((value, [_whole(key)]))
        else:
            pairs.append((key, [_whole(value)]))
        if not pairs[-1][1] or None in pairs[-1][1]:
            raise ValueError(f'{file}: labels: {key!r}: {value!r} has no value: write "1": "liver" or "liver": 1')
    regions = [name for name, values in pairs if len(values) > 1]
    names: dict[int, str] = {}
    for name, values in sorted(pairs, key=lambda pair: -len(pair[1])):  # a smaller region names its values again
        for value in values:
            if not regions and value in names:
                raise ValueError(f"{file}: labels: {value} is both {names[value]!r} and {name!r}: keep one name")
            names[value] = name
    names = {value: names[value] for value in sorted(names) if value > 0}
    if not names:
        raise ValueError(f"{file}: labels: names no value above 0: name what the label files hold")
    findings = []
    if large := {value: names.pop(value) for value in list(names) if value > 255}:
        what = f"label {min(large)} ({large[min(large)]}) is above 255, the largest value that a store keeps"
        findings.append(Finding(file, what, "map the labels to 1..255, in the label files and here"))
    if regions:
        named = ", ".join(f"{value} {name}" for value, name in names.items())
        what = f"labels are regions ({regions[0]!r} and others): a value goes by the smallest of them ({named})"
        findings.append(Finding(file, what, "nothing to do if that is understood; a store keeps values", bad=False))
    if ignored := [value for value, name in names.items() if name.lower() == "ignore"]:
        what = f"label {ignored[0]} is named ignore, but is stored and trained on as a label like the others"
        findings.append(Finding(file, what, "map its voxels to another label if nobody should learn it", bad=False))
    return names, findings


def _channels(file: Path, listed: Any) -> dict[int, str]:
    """The names of the channels, from {number: name}, {name: number}, a list, or a single name."""
    if isinstance(listed, str):
        return {0: listed}
    if isinstance(listed, list):
        return {number: str(name) for number, name in enumerate(listed)}
    if not isinstance(listed, dict):
        raise ValueError(f'{file}: modality is {listed!r}: give the channels, such as {{"0": "CT"}}')
    channels = {}
    for key, value in listed.items():
        number, name = (_whole(key), value) if _whole(key) is not None else (_whole(value), key)
        if number is not None:
            channels[number] = str(name)
    return channels


def _entries(file: Path, content: dict[str, Any]) -> tuple[list[Entry] | None, list[Finding]]:
    """The cases listed under training, or under dataset as nnU-Net v2 has it."""
    if isinstance(content.get("dataset"), dict):
        key = "dataset"
        items = [
            (name, {"image": item.get("images"), "label": item.get("label")} if isinstance(item, dict) else item)
            for name, item in content["dataset"].items()
        ]
    else:
        key, training = "training", content.get("training")
        if training is None:
            return None, _unread(file, content)
        if not isinstance(training, list):
            kind = type(training).__name__
            raise ValueError(f'{file}: training is a {kind}, not a list: give [{{"image": ..., "label": ...}}, ...]')
        items = list(enumerate(training))
    entries, findings = [], _unread(file, content)
    for name, item in items:
        entry = _entry(f"{key}[{name}]", item)
        if entry is None:
            what = f"{key}[{name}] is {_short(item)}: image and label are not both named"
            findings.append(Finding(file, what, 'write {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}'))
        else:
            entries.append(entry)
    return entries, findings


def _entry(where: str, item: Any) -> Entry | None:
    if isinstance(item, str):
        return Entry(where, [item], None)
    if isinstance(item, list):
        item = dict(zip(("image", "label"), item, strict=False)) if len(item) == 2 else None
    if not isinstance(item, dict):
        return None
    images, label = item.get("image"), item.get("label")
    images = images if isinstance(images, list) else [images]
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if not images or not isinstance(label, str) or not all(isinstance(image, str) for image in images):
        return None
    return Entry(where, images, label)


def _unread(file: Path, content: dict[str, Any]) -> list[Finding]:
    """Notes about other lists that name cases with labels, such as MONAI's validation."""
    findings = []
    for key, items in content.items():
        if key in ("training", "dataset") or not isinstance(items, list):
            continue
        count = sum(isinstance(item, dict) and "image" in item and "label" in item for item in items)
        if count:
            what = f"{key} lists {count} cases with labels, which are not read"
            remedy = "list them under training and give the splits with --split_file, if they are meant to be used"
            findings.append(Finding(file, what, remedy, bad=False))
    return findings


def _short(item: Any) -> str:
    text = repr(item)
    return text if len(text) < 80 else f"{text[:80]}..."
