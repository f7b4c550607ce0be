"""One or several of our own checkpoints as the teacher: each with its own preprocessing, neighbors and precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.findings import listed
from datasets.slices.fingerprints import slice_digests
from datasets.slices.neighbors import slice_mm_of
from datasets.slices.resampling import Grid
from datasets.slices.tasks import classes_of, lookup_of
from datasets.slices.transforms import unpad
from utils.evaluation.inference import predict
from utils.evaluation.kind import IMAGES, kind_of
from utils.experiment.guards import refuse_leak, refuse_other_content, refuse_other_input
from utils.prediction.channels import channels, stacked
from utils.teaching.mixture import drawn_pixels, mixture_weights
from utils.teaching.store import Store, StoreCase, read_store
from utils.teaching.teacher import Wish, kept, note_of_learned
from utils.training import checkpoints
from utils.training.device import choose_device

CPU_BATCH, GPU_BATCH = 4, 16


class Member:
    """A checkpoint's network on its device, and how it is fed."""

    def __init__(self, path: Path, checkpoint: Mapping[str, Any], wish: Wish) -> None:
        self.path, self.preprocessing = path, checkpoint["preprocessing"]
        training = checkpoint["recipe"].get("training", {})
        self.device = choose_device(wish.device, training.get("precision", "auto"))
        self.channels_last = bool(training.get("channels_last", False))
        network = self.device.to_device(checkpoints.rebuild(checkpoint))
        self.network = network.to(memory_format=torch.channels_last) if self.channels_last else network
        self.batch_size = wish.batch_size or (CPU_BATCH if self.device.device.type == "cpu" else GPU_BATCH)

    @torch.inference_mode()
    def probabilities(self, case: StoreCase) -> np.ndarray:
        """Of every class, background first, float32 (S, K + 1, H, W) on the stored slices, as in validation."""
        slices, record = case.stored_image(), case.records[0]
        grid = Grid(slices.shape, slices.shape)
        slice_mm = slice_mm_of(record) if self.preprocessing.get("neighbor_mm") else 1.0
        around = channels(iter(slices), grid, slice_mm, self.preprocessing, record.mean, record.std)
        parts = []
        while (image := stacked(islice(around, self.batch_size))) is not None:
            logits = unpad(
                predict(self.device, self.network, torch.from_numpy(image), self.channels_last), slices.shape[1:]
            )
            parts.append(logits.softmax(1).cpu().numpy())
        return np.concatenate(parts)


class CheckpointTeacher:
    """The weighted mean of the probabilities of checkpoints; with weights chosen on val cases, these have seen them.

    Raises ValueError for those of other slices, of other classes than the first, and for a leak.
    """

    def __init__(self, wish: Wish, store: Store) -> None:
        self.license = wish.license
        self.members, self.notes, self.patients = [], [], {}
        loaded = [(path, checkpoints.load(path)) for path in map(checkpoints.file_of, wish.paths)]
        names = list(loaded[0][1]["preprocessing"].get("class_names", ()))
        for number, (path, checkpoint) in enumerate(loaded):
            _check(path, checkpoint, store, wish.allow_leak)
            if (theirs := list(checkpoint["preprocessing"]["class_names"])) != names:
                raise ValueError(
                    f"{path}: predicts {listed(theirs)}, {loaded[0][0]} predicts {listed(names)}: the mean is taken of "
                    "checkpoints of the same classes in the same order"
                )
            self.members.append(Member(path, checkpoint, wish))
            self.patients[str(number)] = _patients(checkpoint["split"])
        self.notes += note_of_learned(
            store.cases, [(seen or {"train": []})["train"] for seen in self.patients.values()]
        )
        self.weights = [1 / len(loaded)] * len(loaded)
        if wish.weights == "val" and len(loaded) > 1:
            self.weights = _chosen(self.members, names, read_store(wish.data, ["val"]))
            for seen in filter(None, self.patients.values()):
                seen["val"] = sorted({*seen["val"], *store.patients["val"]})
            each = ", ".join(f"{weight:.3f} {path}" for weight, (path, _) in zip(self.weights, loaded, strict=True))
            self.notes.append(f"weights chosen on the val cases: {each}")
        self._places = kept(names, wish.only, wish.paths[0])
        self.classes = [names[place] for place in self._places]
        self.cases, self.sources = [case.name for case in store.cases], {}
        self.teachers = [
            {
                "kind": "checkpoint",
                "path": str(path.absolute()),
                "sha256": checkpoints.sha256(path),
                "license": wish.license,
                "settings": {"weight": round(weight, 4)},
            }
            for weight, (path, _) in zip(self.weights, loaded, strict=True)
        ]

    def answer(self, case: StoreCase) -> tuple[Iterable[np.ndarray], list[int]]:
        """See `Teacher.answer`."""
        places = [place + 1 for place in self._places]
        total: np.ndarray | float = 0.0
        for weight, member in zip(self.weights, self.members, strict=True):
            total = total + np.float32(weight) * member.probabilities(case)[:, places]
        return np.minimum(total, 1).swapaxes(0, 1), list(range(len(self.members)))


def _check(path: Path, checkpoint: Mapping[str, Any], store: Store, allow_leak: bool) -> None:
    """Raises ValueError where a checkpoint does not label these slices, or has seen what it must not."""
    preprocessing = checkpoint["preprocessing"]
    if kind_of(preprocessing) is IMAGES:
        raise ValueError(f"{path}: classifies images: maps are made by what labels the pixels of slices")
    here = {key: store.manifest.get(key) for key in ("modality", "spacing", "slice_spacing")}
    refuse_other_input(checkpoint, {**preprocessing, **here}, str(path))
    if not allow_leak:
        refuse_leak(checkpoint, store.patients, str(path))
    meaning = _meaning(preprocessing, store)
    if meaning is not None and checkpoint.get("data", {}).get("cases"):
        records = [record for case in store.cases for record in case.records]
        classes = {value: preprocessing["class_names"][number - 1] for value, number in meaning.items()}
        refuse_other_content(checkpoint, slice_digests(records, classes), str(path))


def _meaning(preprocessing: Mapping[str, Any], store: Store) -> dict[int, int] | None:
    """The class of every label value of a store, where its labels are those of the checkpoint; else None."""
    labels = {int(value): name for value, name in store.manifest["labels"].items()}
    try:
        names, classes = classes_of(
            preprocessing["task"], labels, store.manifest["tumor_labels"], store.manifest["dataset"]
        )
    except (ValueError, KeyError):
        return None
    return classes if list(names) == list(preprocessing["class_names"]) else None


def _patients(split: Mapping[str, Any]) -> dict[str, list[str]] | None:
    return {name: list(split[name]) for name in ("train", "val")} if "train" in split else None


def _chosen(members: list[Member], names: list[str], store: Store) -> list[float]:
    """Weights of the members by the labels of a store's val cases; every class counts alike."""
    meaning = _meaning(members[0].preprocessing, store)
    if meaning is None:
        raise ValueError(
            f"--weights val: the labels of {store.root} are not {listed(names)}: use --weights mean, or a labeled store"
        )
    likelihoods, shares, lookup = [], [], lookup_of(meaning)
    for number, case in enumerate(store.cases):
        drawn = drawn_pixels(lookup[case.stored_label()], len(names) + 1, number)
        answers = [member.probabilities(case).swapaxes(0, 1).reshape(len(names) + 1, -1) for member in members]
        for which, places in enumerate(drawn):
            likelihoods.append(np.stack([answer[which, places] for answer in answers], 1))
            shares.append(np.full(len(places), 1 / max(1, len(places))))
    return mixture_weights(np.concatenate(likelihoods), np.concatenate(shares)).tolist()
