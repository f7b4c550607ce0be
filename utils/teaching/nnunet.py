"""A trained nnU-Net v2 as the teacher: its own preprocessing and sliding window, by folds that did not see the case.

Needs the package nnunetv2, whose checkpoints are pickles: give a model folder that you trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from datasets.findings import listed
from datasets.json_files import read_json
from datasets.volumes.geometry import restore, spacing_of
from utils.experiment.guards import refuse_leak
from utils.teaching.folds import Fold, known_splits, read_folds, split_of, taught_by
from utils.teaching.grids import on_source, on_store
from utils.teaching.meaning import meaning_of
from utils.teaching.store import Store, StoreCase
from utils.teaching.teacher import Wish, kept, note_of_learned
from utils.training import checkpoints
from utils.training.device import choose_device

WANTED = "nnunetv2>=2.5,<3"
CHECKPOINT = "checkpoint_final.pth"
AS_FILED, TO_RAS = ("SimpleITKIO", "NibabelIO"), "NibabelIOWithReorient"


class NnUNetTeacher:
    """Answers each case with the folds that have not learned from its patient.

    Raises ValueError for a folder that is no trained nnU-Net of one channel, and for a leak.
    """

    def __init__(self, wish: Wish, store: Store) -> None:
        (self.folder,) = wish.paths
        plans, found = read_model_folder(self.folder)
        self._reader = plans.get("image_reader_writer", "SimpleITKIO")
        names = list(wish.folds or found)
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{self.folder}: has no fold_{missing[0]}/{CHECKPOINT}, only fold {listed(found)}")
        self._meaning = meaning = meaning_of(self.folder)
        if meaning.values != tuple(range(1, len(meaning.values) + 1)):
            raise ValueError(f"{self.folder}/dataset.json: its labels are {meaning.values}, not 1, 2, ... in order")
        self._places = kept(meaning.names, wish.only, self.folder)
        self.classes = [meaning.names[place] for place in self._places]
        self.cases, self.sources = [case.name for case in store.cases], {}
        self.license, self.notes = wish.license, []
        folds = self._folds(wish, store, plans.get("dataset_name", ""), names)
        self.patients = {
            str(number): fold and {"train": sorted(fold.train), "val": sorted(fold.val)}
            for number, fold in enumerate(folds or [None] * len(names))
        }
        patients = {case.name: case.patient for case in store.cases}
        every = dict.fromkeys(patients, tuple(range(len(names))))
        self.taught_by = taught_by(patients, folds) if folds else every
        self.notes += note_of_learned(store.cases, [fold.train for fold in folds or []])
        self.teachers = [
            {
                "kind": "nnunet",
                "path": str(self.folder / f"fold_{name}"),
                "sha256": checkpoints.sha256(self.folder / f"fold_{name}" / CHECKPOINT),
                "license": wish.license,
                "settings": {"fold": name, "mirror": wish.mirror},
            }
            for name in names
        ]
        self._predictor = _predictor(self.folder, names, wish)
        self._weights = list(self._predictor.list_of_parameters)

    def answer(self, case: StoreCase) -> tuple[Iterable[np.ndarray], list[int]]:
        """See `Teacher.answer`."""
        numbers = self.taught_by[case.name]
        image = restore(np.asarray(case.source_image(), np.float32), case.geometry)
        affine = np.asarray(case.geometry["affine"], np.float64)
        if self._reader == TO_RAS:
            known = nibabel.Nifti1Image(image, affine)
            known = known.as_reoriented(nibabel.io_orientation(affine))
            image, affine = np.asarray(known.dataobj), known.affine
        self._predictor.list_of_parameters = [self._weights[number] for number in numbers]
        properties = {"spacing": list(spacing_of(affine))[::-1]}
        with redirect_stdout(StringIO()):
            _, answer = self._predictor.predict_single_npy_array(
                np.ascontiguousarray(image.T)[None], properties, None, None, save_or_return_probabilities=True
            )
        volumes = np.asarray(answer)
        if len(volumes) != self._meaning.count:
            raise ValueError(
                f"{self.folder}: answers {len(volumes)} channels, its dataset.json has {self._meaning.count}"
            )
        classes = self._meaning.classes(self._places, lambda wanted: (volumes[number].T for number in wanted))
        return (on_store(on_source(each, affine, case.geometry), case.grid) for each in classes), list(numbers)

    def _folds(self, wish: Wish, store: Store, dataset: str, names: list[str]) -> list[Fold] | None:
        """The folds and whom they have seen, once that is nobody whom they must not; None where it is not known.

        It is not known either where no name is one of the store's: a patient may go by another one there.
        """
        file = known_splits(self.folder, dataset, wish.splits_final, wish.allow_leak)
        if file is None:
            self.notes.append(f"{self.folder}: whom its folds have learned from is not known")
            return None
        folds = read_folds(file, names, store.patient_of)
        known = set(store.patient_of.values())
        if not any(known & (fold.train | fold.val) for fold in folds):
            self.notes.append(
                f"{file}: names none of the store's cases, so whom the folds have learned from is not known: "
                "train_kd.py will ask for --allow_leak"
            )
            return None
        if not wish.allow_leak:
            refuse_leak({"split": {**split_of(folds), "sha256": ""}}, store.patients, str(self.folder))
        self.notes.append(f"folds {listed(names)} of {file}: each case is answered by the folds that did not see it")
        return folds


def read_model_folder(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """plans.json and the names of the trained folds. Raises ValueError for what is no model of one channel."""
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder}: has no {name}: give the folder of a trained configuration, such as "
                "nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__2d"
            )
    found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{CHECKPOINT}"))
    if not found:
        raise ValueError(f"{folder}: has no fold_N/{CHECKPOINT}: is its training finished?")
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    channels = dataset.get("channel_names") or dataset.get("modality") or {"0": ""}
    if len(channels) != 1:
        raise ValueError(
            f"{folder}: takes {len(channels)} channels, a slice store has one: use --maps with what it left"
        )
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in (*AS_FILED, TO_RAS):
        raise ValueError(
            f"{folder}: reads images with {reader}, whose axes are not known: use --maps with what it left"
        )
    if stage := _stage_before(plans, folder.name.rsplit("__", 1)[-1]):
        raise ValueError(
            f"{folder}: is the second stage of a cascade, which needs what {stage} predicts: use --maps with what the "
            "cascade left, or another configuration"
        )
    return plans, found


def _stage_before(plans: Mapping[str, Any], name: str) -> str | None:
    """The configuration whose prediction is an input of the one of this name, as it or its parents say."""
    known = plans.get("configurations", {})
    configuration = known.get(name, {})
    while "previous_stage" not in configuration and configuration.get("inherits_from") in known:
        configuration = known[configuration["inherits_from"]]
    return configuration.get("previous_stage")


def _predictor(folder: Path, names: list[str], wish: Wish) -> Any:
    """nnU-Net's own predictor, without what it prints. Raises ValueError where it is not installed."""
    try:
        with redirect_stdout(StringIO()):
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    except ImportError as error:
        raise ValueError(f"--nnunet: {error}: pip install '{WANTED}'") from None
    device = choose_device(wish.device, "32-true").device
    folds = [name if name == "all" else int(name) for name in names]
    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(use_mirroring=wish.mirror, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds, CHECKPOINT)
    return predictor
