"""Probabilities, or labels, that another program left, as the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.splits import read_split
from utils.experiment.guards import refuse_leak
from utils.teaching.grids import on_source, on_store
from utils.teaching.map_files import files_of, find_map_files
from utils.teaching.map_reading import read_maps_file
from utils.teaching.masks import read_masks
from utils.teaching.meaning import meaning_of, plain
from utils.teaching.store import Store, StoreCase
from utils.teaching.teacher import Wish, kept


class LeftMaps:
    """Answers with what lies in a folder, taken from its own grid to that of the store.

    Raises ValueError where no file belongs to a case of the store, and for a leak that is known of.
    """

    def __init__(self, wish: Wish, store: Store) -> None:
        (folder,) = wish.paths
        found = find_map_files(folder, [case.name for case in store.cases])
        named = dict(enumerate(wish.classes or found.masked, start=1))
        self._files, self._meaning = found.files, plain(named) if named else meaning_of(folder)
        self._places = kept(self._meaning.names, wish.only, folder)
        self.classes = [self._meaning.names[place] for place in self._places]
        self.cases = list(found.files)
        self.sources = {case: files_of(path, self.classes) for case, path in found.files.items()}
        self.license = wish.license
        self.teachers = [{"kind": "maps", "path": str(folder), "sha256": None, "license": wish.license}]
        seen, self.notes = seen_by(wish, store, folder)
        self.patients = {"0": seen}
        self.notes += found.notes

    def answer(self, case: StoreCase) -> tuple[Iterator[np.ndarray], list[int]]:
        """See `Teacher.answer`."""
        return self._classes(case, self._files[case.name]), [0]

    def _classes(self, case: StoreCase, path: Path) -> Iterator[np.ndarray]:
        if path.is_dir():
            classes, affine = read_masks(path, self.classes)
        else:
            classes, affine = read_maps_file(path, self._meaning, self._places)
        for each in classes:
            try:
                yield on_store(on_source(each, affine, case.geometry), case.grid)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None


def seen_by(wish: Wish, store: Store, where: Path) -> tuple[dict[str, list[str]] | None, list[str]]:
    """The patients that a teacher of others learned from, where --seen names them, and a note where they are not known.

    Raises ValueError where they are val or test patients of the store.
    """
    if wish.seen is None:
        what = "whom it has learned from is not known: name them with --seen, or train_kd.py will ask for --allow_leak"
        return None, [f"{where}: {what}"]
    seen = read_split(wish.seen)
    if not wish.allow_leak:
        refuse_leak({"split": {**seen, "sha256": ""}}, store.patients, str(wish.seen))
    return {name: seen[name] for name in ("train", "val")}, []
