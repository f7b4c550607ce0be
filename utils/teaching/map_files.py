"""The files of probabilities or labels that other programs left, by the case of a store that they belong to.

| file | left by |
|---|---|
| `CASE.npz` with `CASE.pkl` | `nnUNetv2_predict --save_probabilities`, TotalSegmentator |
| `CASE_probabilities.nii.gz` | `predict.py --probabilities` |
| `CASE.nii.gz`, `CASE/segmentation.nii.gz` | any program: one volume a class along a fourth axis, or labels |
| `CASE/CLASS.nii.gz`, one for each class | TotalSegmentator without `--ml` |

In this order: where a case has several, the first is taken, for labels say less than probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.files import NIFTI_ENDINGS, ending, stem
from datasets.findings import listed
from datasets.scan import scan
from utils.evaluation.volumes.label_files import case_name
from utils.teaching.folds import FIRST_CHANNEL
from utils.teaching.masks import classes_of_masks, is_mask

PROBABILITIES = "_probabilities"
NPZ, NAMED, PLAIN, MASKS = range(4)


@dataclass(frozen=True)
class MapFiles:
    """Who has what.

    Args:
        files: By the name of the case: a file, or a folder of masks.
        masked: The classes that the folders of masks name; none where a case has a file.
        notes: What belongs to no case, what was passed over, and who has no file.
    """

    files: Mapping[str, Path]
    masked: tuple[str, ...]
    notes: tuple[str, ...]


def find_map_files(folder: Path, cases: Collection[str]) -> MapFiles:
    """The file of each case, searched in the whole folder.

    Raises ValueError where none belongs to a case of the store, and where two of one kind belong to one.
    """
    found = scan(folder)
    found.take(lambda file: ending(file) in (".pkl", ".json"))  # they are read beside others
    found.keep(lambda file: ending(file) in (".npz", *NIFTI_ENDINGS), "ending")
    ranked: dict[str, dict[int, Path]] = {}
    strange, masks = [], {}
    for file in found.files:
        name, rank = _meant(file)
        if name not in cases:
            name = name.removesuffix(FIRST_CHANNEL)
        if name not in cases and file.parent.name in cases and file.parent != folder and is_mask(file):
            masks.setdefault(file.parent, []).append(file)
        elif name not in cases:
            strange.append(file.relative_to(folder).as_posix())
        elif rank in (of_case := ranked.setdefault(name, {})):
            raise ValueError(f"{file}: is of case {name}, as is {of_case[rank]}: keep one of them")
        else:
            of_case[rank] = file
    for place, files in masks.items():
        if other := ranked.get(place.name, {}):  # labels of all classes, or masks in another folder
            if MASKS in other:
                raise ValueError(f"{place}: is of case {place.name}, as is {other[MASKS]}: keep one of them")
            strange += [file.relative_to(folder).as_posix() for file in files]
        else:
            ranked[place.name] = {MASKS: place}
    if not ranked:
        what = f" (it has {listed(strange, 3)})" if strange else ""
        raise ValueError(
            f"--maps {folder}: no file is named as a case of the store, such as {min(cases)}.npz or "
            f"{min(cases)}.nii.gz{what}: rename the files"
        )
    notes = [*found.bad, *found.notes]
    if strange:
        notes.append(f"{len(strange)} files belong to no case that is asked for: {listed(strange)}")
    if missing := sorted(set(cases) - ranked.keys()):
        notes.append(f"{len(missing)} cases have no file in {folder}: {listed(missing)}")
    files = {case: of_case[min(of_case)] for case, of_case in sorted(ranked.items())}
    names = {name for place in files.values() if place.is_dir() for name in classes_of_masks(place)}
    masked = tuple(sorted(names)) if all(place.is_dir() for place in files.values()) else ()
    return MapFiles(files, masked, tuple(notes))


def _meant(file: Path) -> tuple[str, int]:
    name = stem(file)
    if ending(file) == ".npz":
        return name, NPZ
    if name.endswith(PROBABILITIES):
        return name.removesuffix(PROBABILITIES), NAMED
    return case_name(file), PLAIN


def files_of(path: Path, classes: Collection[str]) -> list[Path]:
    """All files that are read of a case whose file, or folder of masks, this is."""
    if path.is_dir():
        return [file for name, file in classes_of_masks(path).items() if name in classes]
    beside = path.with_suffix(".pkl")
    return [path, beside] if ending(path) == ".npz" and beside.is_file() else [path]
