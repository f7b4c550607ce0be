"""Soft maps: the probabilities that a teacher gives to every pixel of a slice store, in a folder of their own.

    MAPS/maps.json     the teacher's classes, the store that the maps lie on, what made them and whom that has seen
    MAPS/<case>.npy    uint8 (S, K, H, W): a code for each slice of the case, class and pixel
    MAPS/<case>.json   the digest of the slices that it belongs to, and which teachers made it

Slices and pixels are those of the store, in its order and of its stored size. Background comes first: 1 minus the sum
of decoded classes would have none of its tail. It is left out beside a single class, whose code says it all, and in
folders that do not say `background`. Needs numpy, not torch.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import refuse_full_disk, replacing
from datasets.fingerprints import digest
from datasets.json_files import read_json
from datasets.slices.fingerprints import slice_image_digests
from datasets.slices.soft_codes import encode
from datasets.slices.store import read_index, read_manifest, read_slice, write_json

FORMAT = 1
MANIFEST = "maps.json"
KEYS: dict[str, Any] = {
    "format": int,
    "classes": list,
    "store": dict,
    "made_by": dict,
    "license": str | None,
    "patients": dict,
}
STORE = ("dataset", "split_sha256", "spacing", "slice_spacing")


@dataclass(frozen=True)
class CaseMaps:
    """What is known of a case's maps.

    Args:
        digest: Of the stored images that they belong to, see `slice_image_digests`.
        teachers: The numbers in maps.json of the teachers that made them.
        content: The digest of the maps themselves.
        source: The digest of the files that the teacher's answer was read from; None where that is not known.
    """

    digest: str
    teachers: tuple[int, ...]
    content: str
    source: str | None = None


@dataclass(frozen=True)
class Maps:
    """A folder of soft maps.

    Args:
        classes: The names of the foreground classes, in the order of the maps' channels.
        license: Whatever those who made the teacher ask of those who use it.
        store: `dataset`, `split_sha256`, `spacing` and `slice_spacing` of the store that they lie on.
        made_by: `command`, `version` and `teachers`: `kind`, `path`, `sha256` and `license` of each.
        patients: For the number of each teacher (as text) the patients it was trained on and chosen by, `train` and
            `val`; None where they are not known.
        cases: By the name of each case that has maps.
        background: Whether it is stored.
    """

    folder: Path
    classes: tuple[str, ...]
    license: str | None
    store: Mapping[str, Any]
    made_by: Mapping[str, Any]
    patients: Mapping[str, Mapping[str, Sequence[str]] | None]
    cases: Mapping[str, CaseMaps]
    background: bool

    def slices(self, case: str) -> np.memmap:
        """The codes of the foreground classes of a case, uint8 (S, K, H, W); see `codes`."""
        return self.codes(case)[:, int(self.background) :]

    def codes(self, case: str) -> np.memmap:
        """The codes of a case, read from the disk when they are looked at.

        uint8 (S, K, H, W), or (S, 1 + K, H, W) with background first where it is stored.

        Raises ValueError for a file that is missing or damaged.
        """
        path = self.folder / f"{case}.npy"
        try:
            codes = np.load(path, mmap_mode="r")
            why = f"{codes.dtype} of shape {codes.shape}"
            if codes.dtype == np.uint8 and codes.ndim == 4 and codes.shape[1] == len(self.classes) + self.background:
                return codes
        except (OSError, ValueError, EOFError) as error:
            why = " ".join(str(error).split())
        raise ValueError(f"{path}: is not a map of {len(self.classes)} classes ({why}): {self._again(case)}")

    def refuse_damaged(self, case: str) -> None:
        """Raises ValueError where the maps of a case are not those that were written: reads all of them."""
        if digest(self.codes(case).tobytes()) != self.cases[case].content:
            raise ValueError(f"{self.folder / case}.npy: is not what was written, or damaged: {self._again(case)}")

    def _again(self, case: str) -> str:
        return f"remove {case}.json beside it, and scripts/TeachWith.py makes it again"


def read_maps(folder: Path | str) -> Maps:
    """Read a folder of soft maps, of which the maps themselves stay on the disk.

    Raises ValueError where the folder is not one, or is damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path}: not found: {folder} is no folder of soft maps; make one with scripts/TeachWith.py")
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= KEYS.keys():
        raise ValueError(f"{path}: is not of soft maps: make them with scripts/TeachWith.py")
    if wrong := _wrong(content):
        raise ValueError(f"{path}: its {wrong} is {content[wrong]!r}: it is damaged, make the maps again")
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: is of format {content['format']}, this version reads {FORMAT}: make the maps again")
    files = sorted(file for file in folder.glob("*.json") if file.name != MANIFEST and not file.name.startswith("."))
    return Maps(
        folder=folder,
        classes=tuple(content["classes"]),
        license=content["license"],
        store=content["store"],
        made_by=content["made_by"],
        patients=content["patients"],
        cases={file.stem: _case(file) for file in files},
        background=content.get("background", False),
    )


def _wrong(content: Mapping[str, Any]) -> str | None:
    """The key of maps.json whose value is of another kind than it must be; None where all are right."""
    if wrong := [key for key, kind in KEYS.items() if not isinstance(content[key], kind)]:
        return wrong[0]
    if not all(isinstance(name, str) for name in content["classes"]):
        return "classes"
    return None if isinstance(content["made_by"].get("teachers"), list) else "made_by"


def _case(file: Path) -> CaseMaps:
    record = read_json(file)
    try:
        return CaseMaps(record["digest"], tuple(record["teachers"]), record["content"], record.get("source"))
    except (TypeError, KeyError):
        raise ValueError(f"{file}: is not of soft maps: remove it and make the maps of {file.stem} again") from None


class MapsWriter:
    """Writes the soft maps of a store, each case whole or not at all; several may write one folder at once.

    Args:
        folder: Where the maps go: a new folder, or one that earlier began with the same store, classes and teachers.
        store_root: The slice store that they lie on.
        classes: The names of the teacher's foreground classes, in the order of the channels.
        made_by: See `Maps`; the teachers of a folder never change.
        license: See `Maps`.
        patients: See `Maps`.
        cases: Those to write; None: all of the store.
        source_of: The digest of the files that the answer to a case is read from; None where it is read from none.

    Attributes:
        missing: The cases that have no maps yet, or those of slices or of sources that have changed, in order.
        needed: Bytes that the missing maps take.

    Raises ValueError where the disk does not hold what is missing, for a folder of another store or teacher, and for
    cases that the store does not have.
    """

    def __init__(
        self,
        folder: Path | str,
        store_root: Path | str,
        classes: Sequence[str],
        made_by: Mapping[str, Any],
        license: str | None,
        patients: Mapping[str, Mapping[str, Sequence[str]] | None],
        cases: Iterable[str] | None = None,
        source_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.folder, self.root, self.classes = Path(folder), Path(store_root), tuple(classes)
        records, manifest = read_index(self.root), read_manifest(self.root)
        self._records: dict[str, list[Path]] = {}
        for record in records:
            self._records.setdefault(record.case, []).append(record.path)
        if unknown := sorted(set(cases or ()) - self._records.keys()):
            raise ValueError(f"{self.root}: has no case {unknown[0]}: choose cases that index.csv lists")
        if (name := Path(MANIFEST).stem) in self._records:
            raise ValueError(f"{self.root}: a case is called {name}, as the list of soft maps is: rename it")
        self.digests = slice_image_digests(records)
        content: dict[str, Any] = {
            "format": FORMAT,
            "classes": list(self.classes),
            "background": len(self.classes) > 1,
            "store": {key: manifest.get(key) for key in STORE},
            "made_by": dict(made_by),
            "license": license,
            "patients": dict(patients),
        }
        done: Mapping[str, CaseMaps] = {}
        self._background = content["background"]
        if there := (self.folder / MANIFEST).exists():
            maps = self._begun(json.loads(json.dumps(content)))
            done, self._background = maps.cases, maps.background
        wanted = sorted(self._records if cases is None else set(cases))
        self._source_of = source_of
        self.missing = [case for case in wanted if case not in done or self._has_changed(case, done[case])]
        self.needed = sum(map(self.nbytes, self.missing))
        refuse_full_disk(self.folder, self.needed, f"the maps of {len(self.missing)} cases")
        if not there:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / MANIFEST, content)

    def shape(self, case: str) -> tuple[int, int, int, int]:
        """(S, K, H, W) of the foreground classes of a case."""
        files = self._records[case]
        return (len(files), len(self.classes), *read_slice(files[0])[0].shape)

    def nbytes(self, case: str) -> int:
        """What the maps of a case take."""
        slices, classes, height, width = self.shape(case)
        return slices * (classes + self._background) * height * width

    def write(self, case: str, probabilities: np.ndarray, teachers: Sequence[int]) -> None:
        """Write the maps of a case: probabilities (S, K, H, W) of the foreground classes, see `write_classes`."""
        self.write_classes(case, probabilities.swapaxes(0, 1), teachers)

    def write_classes(self, case: str, classes: Iterable[np.ndarray], teachers: Sequence[int]) -> None:
        """Write the maps of a case: probabilities (S, H, W) of one class after another, by teachers of these numbers.

        Raises ValueError for another shape and for what is not a probability; an OSError has the path.
        """
        path, shape = self.folder / f"{case}.npy", self.shape(case)
        first, lie = int(self._background), f"lie on the slices of {case}, {shape}"
        codes = np.empty((shape[0], first + shape[1], *shape[2:]), np.uint8)
        rest, number = np.ones((shape[0], *shape[2:]), np.float32), 0
        for number, each in enumerate(classes, start=1):
            if each.shape != (shape[0], *shape[2:]) or number > shape[1]:
                raise ValueError(f"{path}: {number} maps of shape {each.shape} do not {lie}")
            try:
                for place, values in enumerate(each):
                    codes[place, first + number - 1] = encode(values)
            except ValueError as error:
                raise ValueError(f"{path}: {error}: the teacher must answer {case} with numbers from 0 to 1") from None
            rest -= each
        if number < shape[1]:
            raise ValueError(f"{path}: {number} maps do not {lie}")
        if self._background:
            codes[:, 0] = [encode(each) for each in rest.clip(0, 1)]
        (self.folder / f"{case}.json").unlink(missing_ok=True)  # of earlier slices
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, codes)
        record = {
            "digest": self.digests[case],
            "teachers": list(teachers),
            "content": digest(memoryview(codes).cast("B")),
        }
        write_json(self.folder / f"{case}.json", record | {"source": self._source_of(case)})

    def _has_changed(self, case: str, done: CaseMaps) -> bool:
        """Whether the slices of a case, or the files of its answer, are others than those its maps were made of."""
        return done.digest != self.digests[case] or (done.source is not None and done.source != self._source_of(case))

    def _begun(self, content: dict[str, Any]) -> Maps:
        """What the folder holds. Raises ValueError where it was begun with something else."""
        maps = read_maps(self.folder)
        pairs = {
            "classes": (list(maps.classes), content["classes"]),
            "store": (_grid(maps.store), _grid(content["store"])),
            "teacher": (_teachers(maps.made_by), _teachers(content["made_by"])),
            "list of patients": (maps.patients, content["patients"]),
        }
        for name, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise ValueError(f"{self.folder}: its {name} is {theirs}, not {ours}: choose another folder")
        if strange := sorted(maps.cases.keys() - self._records.keys()):
            raise ValueError(
                f"{self.folder}: holds maps of {strange[0]}, which is not in {self.root}: choose another folder"
            )
        return maps


def _grid(store: Mapping[str, Any]) -> dict[str, Any]:
    """A store may grow, and then has another split."""
    return {key: store.get(key) for key in STORE if key != "split_sha256"}


def _teachers(made_by: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What is known of the teachers and of how they were asked, wherever they lie."""
    keys = ("kind", "settings")
    return [(*map(each.get, keys), each.get("sha256") or each.get("path")) for each in made_by["teachers"]]
