"""What a slice store lists: the good cases that are found now, those of other folders, and who is in which split."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.files import is_below
from datasets.findings import Finding, listed
from datasets.scan import hidden
from datasets.slices.slicing import Outcome, duplicates, is_unchanged, read_sources
from datasets.slices.store import (
    COLUMNS,
    MANIFEST,
    RECORD,
    is_whole,
    published_cases,
    read_case,
    read_index,
    read_manifest,
)
from datasets.splits import DEFAULT_RATIOS, SPLITS, read_split, split_patients
from datasets.volumes.layouts import RawCase, RawDataset

SPACINGS = ("spacing", "slice_spacing")  # the settings of a case that are those of its store


@dataclass(frozen=True)
class SplitWish:
    """How the patients are to be split: dealt by ratios and seed, as a file gives it, or all into one split (`mode`).

    Ratios and seed are None where the split of the store holds. move: patients of the store may change their split.
    """

    ratios: Sequence[float] | None
    seed: int | None
    file: Path | None
    given: dict[str, list[str]] | None
    mode: str
    move: bool


def check_store(root: Path, raw: RawDataset, inpath: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError when OUT holds files of another program, or slices that these cannot be added to.

    settings: see `settings_of`.
    """
    for name, is_ours in (("dataset.json", _is_manifest), ("split.json", _is_split), ("index.csv", _is_index)):
        file = root / name
        if file.is_file():
            ours = is_ours(file.read_text(encoding="utf-8", errors="surrogateescape"))
        else:
            ours = not os.path.lexists(file)  # a folder, or a link that leads nowhere
        if not ours:
            raise ValueError(f"{file}: was not made by SliceMaker: move it away, or choose another --outpath")
    if not (root / "dataset.json").is_file():
        return
    manifest = read_manifest(root)
    same = {"dataset": raw.name, "modality": raw.modality, "format": settings["format"]}
    same |= {key: settings.get(key) for key in SPACINGS}
    for key, value in same.items():
        if manifest.get(key) != value:
            held, asked = ("native" if each is None else each for each in (manifest.get(key), value))
            raise ValueError(f"{root} holds {key} {held}, not {asked}: choose another --outpath")
    if _elsewhere(published_cases(root), raw, inpath):
        for value, name in manifest["labels"].items():
            if raw.labels.get(int(value), name) != name:
                raise ValueError(
                    f"{root} holds cases of another folder in which label {value} is {name}, not "
                    f"{raw.labels[int(value)]}: choose another --outpath"
                )


def _is_manifest(text: str) -> bool:
    content = _json(text)
    return isinstance(content, dict) and content.keys() >= MANIFEST


def _is_split(text: str) -> bool:
    content = _json(text)
    return isinstance(content, dict) and content.keys() >= {"seed", "ratios", *SPLITS}


def _is_index(text: str) -> bool:
    return text.splitlines()[:1] == [",".join(COLUMNS)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _elsewhere(published: list[dict[str, Any]], raw: RawDataset, inpath: Path) -> list[dict[str, Any]]:
    """Those of the published cases that were sliced from other folders than IN."""
    found = {case.case for case in raw.cases}
    records = [record for record in published if record["case"] not in found]
    return [record for record in records if not is_below(_image_of(record), inpath)]


def _image_of(record: dict[str, Any]) -> Path:
    return Path(record["sources"]["image"]["file"])


def choose_split(wish: SplitWish, raw: RawDataset, root: Path, inpath: Path) -> dict[str, Any]:
    """Who is in which split: as wished, and otherwise as in OUT already, with new patients dealt in.

    Raises ValueError where a patient of the store would change its split and may not.
    """
    published = published_cases(root)
    elsewhere = {record["patient"] for record in _elsewhere(published, raw, inpath)}
    patients = sorted({case.patient for case in raw.cases})
    file = root / "split.json"
    existing = _existing(root, published, raw, wish.move)
    before = {patient: name for name in SPLITS for patient in existing[name]}
    if wish.move:
        existing = {name: [patient for patient in existing[name] if patient not in patients] for name in SPLITS}
    ratios, seed = wish.ratios or DEFAULT_RATIOS, wish.seed or 0
    if wish.given:
        split, ratios, seed = wish.given, None, None
        absent = sorted({*patients, *elsewhere} - {patient for name in SPLITS for patient in split[name]})
        if absent:
            raise ValueError(f"{wish.file}: {len(absent)} patients are in no list, such as {absent[0]}: add them")
    elif wish.mode != "all":
        split, ratios, seed = {**existing, wish.mode: sorted({*existing[wish.mode], *patients})}, None, None
    elif wish.ratios or wish.seed is not None or not before or wish.move:
        split = split_patients({*patients, *before}, ratios, seed)
    else:
        split = split_patients(patients, ratios, seed, existing)
    placed = {patient: name for name in SPLITS for patient in split[name]}
    if lost := sorted(elsewhere - placed.keys()):
        raise ValueError(f"{file}: does not place {lost[0]}, whose slices {root} holds: choose another --outpath")
    moved = sorted(patient for name in SPLITS for patient in split[name] if before.get(patient, name) != name)
    if moved and not wish.move:
        raise ValueError(
            f"{file} splits the patients otherwise ({moved[0]} is in {before[moved[0]]}): what was trained on it "
            "may have seen the new test patients; choose another --outpath, or pass --overwrite"
        )
    return {"seed": seed, "ratios": None if ratios is None else list(ratios), **split}


def _existing(root: Path, published: list[dict[str, Any]], raw: RawDataset, move: bool) -> dict[str, list[str]]:
    """The split of the store. A patient that was known by other names, one for each case, stays where those are."""
    file = root / "split.json"
    try:
        indexed = (
            {record.patient: record.split for record in read_index(root)} if (root / "index.csv").is_file() else {}
        )
    except ValueError:  # damaged; it is written anew
        indexed = {}
    if not file.is_file():
        return {name: sorted(patient for patient, where in indexed.items() if where == name) for name in SPLITS}
    existing = read_split(file)
    before = {patient: name for name in SPLITS for patient in existing[name]}
    other = sorted(patient for patient, name in indexed.items() if before.get(patient) != name)
    if other and not move:
        where = f"{before.get(other[0], 'no split')}, index.csv in {indexed[other[0]]}"
        raise ValueError(
            f"{file}: puts {other[0]} in {where}: put split.json back as it was, or give the edited one with "
            "--split_file and --overwrite"
        )
    names = {record["case"]: record["patient"] for record in published}
    for patient in {case.patient for case in raw.cases} - before.keys():
        earlier = {names[case.case] for case in raw.cases if case.patient == patient and case.case in names}
        places = {before[name] for name in earlier if name in before}
        if len(places) > 1 and not move:
            raise ValueError(
                f"{file}: the cases of patient {patient} are in {' and '.join(sorted(places))}: a patient belongs to "
                "one split: choose another --outpath, or pass --overwrite"
            )
        if places:
            existing[min(places)].append(patient)
    return existing


def list_cases(
    root: Path, raw: RawDataset, inpath: Path, settings: Mapping[str, Any], outcomes: dict[str, Outcome]
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The records of the cases that the index lists, and findings about those of the store that it does not.

    A case of this run is listed where it is good. One of another shard is where its files did not change since, one
    of another folder stays listed, and one that IN does not hold any more is not.
    """
    cases = {case.case: case for case in raw.cases}
    records: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = {}
    others: list[dict[str, Any]] = []
    for record in published_cases(root):
        name = record["case"]
        if name in outcomes:
            why = None if outcomes[name].record else "bad now"
        elif not is_whole(root / name, record):
            why = "slices are absent or cut short"
        elif name in cases:
            if not _is_current(record, cases[name], settings, raw):
                continue  # its shard will slice it
            why = None
        elif is_below(_image_of(record), inpath):
            why = "not in IN now"
        elif record["settings"] != settings:
            why = "sliced from another folder with other settings"
        else:
            others.append(record)
            why = None
        if why:
            left_out.setdefault(why, []).append(name)
        else:
            records.append(record)
    if unknown := sorted(_unknown(root) - outcomes.keys()):
        left_out["case.json is damaged, or of a case of another name"] = unknown
    remedy = "nothing is trained on them, and their folders stay: remove those that are of no use"
    findings = [
        Finding(root, f"no longer lists {listed(names)} ({why})", remedy, bad=False) for why, names in left_out.items()
    ]
    if others:
        image = _image_of(others[0])
        of = f"such as {others[0]['case']} of {image}{'' if image.exists() else ' (not there now)'}"
        what, remedy = f"also lists {len(others)} cases of other folders, {of}", "remove the folders of cases not meant"
        findings.append(Finding(root, what, remedy, bad=False))
    repeated = duplicates(records)
    findings += repeated.values()
    return [record for record in records if record["case"] not in repeated], findings


def _unknown(root: Path) -> set[str]:
    """The folders of cases whose record cannot be read."""
    folders = (file.parent for file in root.glob(f"*/{RECORD}"))
    return {folder.name for folder in folders if not hidden(folder.name) and read_case(folder) is None}


def _is_current(record: dict[str, Any], case: RawCase, settings: dict[str, Any], raw: RawDataset) -> bool:
    """Whether a published case of another shard is of the files that are there now, and of labels that are known."""
    try:
        unchanged = is_unchanged(record, read_sources(case), settings)
    except OSError:
        return False
    return (
        unchanged
        and record["patient"] == case.patient
        and {int(value) for value in record["voxels"]} <= set(raw.labels)
    )


def describe_store(
    raw: RawDataset, root: Path, inpath: Path, records: list[dict[str, Any]], settings: Mapping[str, Any], **rest: Any
) -> dict[str, Any]:
    """The content of dataset.json. Labels that only cases of other folders hold stay known."""
    present = {int(value) for record in records for value in record["voxels"]}
    cyst_free = raw.name == "kits" and 3 not in present  # KiTS19 knows no cysts
    labels = {str(value): name for value, name in raw.labels.items() if not (cyst_free and value == 3)}
    tumor_labels = set(raw.tumor_labels)
    if (root / "dataset.json").is_file() and _elsewhere(published_cases(root), raw, inpath):
        earlier = read_manifest(root)
        labels = dict(sorted({**earlier["labels"], **labels}.items(), key=lambda label: int(label[0])))
        tumor_labels |= set(earlier["tumor_labels"])
    return {
        "dataset": raw.name,
        "modality": raw.modality,
        "format": settings["format"],
        **rest,
        **{key: settings[key] for key in SPACINGS if key in settings},
        "labels": labels,
        "tumor_labels": sorted(tumor_labels),
    }
