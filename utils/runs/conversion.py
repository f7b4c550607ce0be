"""A checkpoint of this program from weights that the published code of EMKD, HLFD or HDKD saved."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.images.transforms import as_json, preparation
from datasets.slices.transforms import STRIDE, pad_value
from datasets.splits import read_split, split_sha256
from networks import SEGMENTATION
from networks.published import Converted, candidates, misfit, recognize
from networks.published_names import LAYOUTS
from utils.recipe.schema import Recipe, Training, as_dict
from utils.training import checkpoints
from utils.training.foreign_files import read_inert, weights_of

WINDOWS = {"kits": (-200.0, 300.0), "lits": (-60.0, 140.0)}  # HU, of EMKD; HLFD has [-40, 160] for LiTS
ORGANS = {"kits": "kidney", "lits": "liver"}


@dataclass(frozen=True)
class Answers:
    """What a published file does not say. None: as published.

    Args:
        network: Of `LAYOUTS`, where it shall not be recognized.
        prefix: Of the names to take, where a file holds two networks: `net.`, `t_net.`.
        dataset: `kits` or `lits`, which have their own windows.
        task: `tumor`, `organ` or `all`.
        modality: `CT`, or `MR`, which has no window: a z-score per case.
        window: (lower, upper) in HU.
        crop: Side of the slices it was trained on, in pixels.
        image_size: Side of the images it was trained on, where the weights do not show it.
        normalization: Of images: `imagenet`, `half` or `none`.
        class_names: In the order of the classes, without a background.
        split_file: The split of its training.
        root: Folder of the data, for the commands that score on them.
    """

    network: str | None = None
    prefix: str | None = None
    dataset: str | None = None
    task: str | None = None
    modality: str = "CT"
    window: tuple[float, float] | None = None
    crop: int = 384
    image_size: int | None = None
    normalization: str = "imagenet"
    class_names: Sequence[str] | None = None
    split_file: Path | None = None
    root: str | None = None


def convert_file(path: Path, answers: Answers) -> tuple[dict[str, Any], list[str]]:
    """The checkpoint, and lines that say what it was made of and what was taken for granted.

    Raises ValueError naming what is wrong with the file, and the flag that answers what it does not say.
    """
    content = read_inert(path)
    if isinstance(content, Mapping) and {"network", "weights", "preprocessing"} <= content.keys():
        raise ValueError(f"{path}: is a checkpoint of train.py or train_kd.py already: use it as it is")
    weights = weights_of(content)
    if weights is None:
        raise ValueError(checkpoints.explain(path))
    found, others = _choose(path, weights, answers)
    not_finite = [key for key, value in found.weights.items() if not torch.isfinite(value).all()]
    if not_finite:
        raise ValueError(f"{path}: {not_finite[0]} is not finite: take an earlier checkpoint of its training")
    options = _options(content)
    classify = found.network["name"] not in SEGMENTATION
    preprocessing, data, lines = _images(found, answers) if classify else _slices(found, answers, options)
    split, split_line = _split(answers)
    recipe = Recipe(
        data=data,
        network={key: value for key, value in found.network.items() if key not in ("num_classes", "in_channels")},
        task_loss={"name": "cross_entropy" if classify else "dice_focal"},
        metric={"name": "classification", "select": "accuracy"} if classify else {"name": "volume_dice"},
        training=Training(precision="32-true"),
    )
    checkpoint = {
        "network": found.network,
        "weights": found.weights,
        "preprocessing": preprocessing,
        "split": split,
        "scores": {"scores": {}, "cases": []},
        "recipe": as_dict(recipe),
        "published": {"source": found.source, "file": path.name, "sha256": checkpoints.sha256(path)},
    }
    if isinstance(content.get("epoch"), int):
        checkpoint["epoch"] = content["epoch"]
    checkpoints.rebuild(checkpoint)
    return checkpoint, [*_summary(path, found, others), *lines, split_line]


def _choose(path: Path, weights: Mapping[str, Tensor], answers: Answers) -> tuple[Converted, list[Converted]]:
    """The network that was asked for, or the one that a training saved as its own; and the others in the file."""
    if answers.network is not None and answers.network not in LAYOUTS:
        raise ValueError(f"--network {answers.network}: no published layout is known; one of {', '.join(LAYOUTS)}")
    possible = [
        (name, prefix)
        for name, prefix in candidates(weights)
        if answers.network in (None, name) and answers.prefix in (None, prefix)
    ]
    found = recognize(weights, possible)
    if not found:
        raise ValueError(_mismatch(path, weights, possible, answers))
    found.sort(key=lambda each: (each.prefix not in ("", "net."), each.prefix))
    first, *others = found
    if others and answers.prefix is None and first.prefix not in ("", "net."):
        held = ", ".join(f"{each.network['name']} ({each.prefix})" for each in found)
        raise ValueError(f"{path}: holds {held}: choose one with --prefix")
    return first, others


def _mismatch(path: Path, weights: Mapping[str, Tensor], possible: Sequence[tuple[str, str]], answers: Answers) -> str:
    """Why a file is none of the published networks: the nearest one and the first tensor that is wrong."""
    if answers.network is not None and not possible:
        possible = [
            (answers.network, answers.prefix or ("net." if any(key.startswith("net.") for key in weights) else ""))
        ]
    if not possible:
        beginning = f" below --prefix {answers.prefix}" if answers.prefix else ""
        return (
            f"{path}: its {len(weights)} tensors{beginning}, such as {next(iter(weights))}, are of none of the "
            f"published networks that are known: {', '.join(LAYOUTS)}"
        )
    name, prefix = possible[0]
    return f"{path}: is nearest to {LAYOUTS[name].source}'s {name}, but {misfit(weights, name, prefix)}"


def _options(content: Any) -> dict[str, Any]:
    """The command line of a published training, which Lightning keeps beside the weights."""
    options = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    if isinstance(options, Mapping) and len(options) == 1:
        options = next(iter(options.values()))
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    return (
        {key: value for key, value in options.items() if isinstance(value, str)} if isinstance(options, Mapping) else {}
    )


def _slices(
    found: Converted, answers: Answers, options: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Preprocessing, section of the data and what was taken for granted, for a network of CT or MR slices."""
    classes = found.network["num_classes"] - 1
    if classes < 1:
        raise ValueError("its head has one output: a background and a class are needed, as EMKD and HLFD have them")
    dataset = answers.dataset or (options.get("dataset") if options.get("dataset") in WINDOWS else "kits")
    known = options.get("task") if options.get("task") in ("tumor", "organ") else "tumor"
    task = answers.task or (known if classes == 1 else "all")
    names = answers.class_names or ([{"tumor": "tumor", "organ": ORGANS[dataset]}.get(task)] if task != "all" else None)
    names = _class_names(names, classes, "besides the background")
    if answers.modality == "MR" and answers.window is not None:
        raise ValueError("--window is in HU, and --modality is MR: give one of them")
    window = None if answers.modality == "MR" else list(answers.window or WINDOWS[dataset])
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"--window {window[0]:g} {window[1]:g}: the lower end comes first, e.g. -200 300")
    if answers.crop < 1 or answers.crop % STRIDE:
        raise ValueError(f"--crop {answers.crop}: give a multiple of {STRIDE}, e.g. 384")
    shared = {"task": task, "window": window, "crop": answers.crop}
    preprocessing = {
        "modality": answers.modality,
        "class_names": names,
        "labels": {str(number): name for number, name in enumerate(names, start=1)},
        "pad_value": pad_value(window),
        "multiple": STRIDE,
        **shared,
    }
    data = {"name": "slices", "root": answers.root or {"kits": "data/kits19"}.get(dataset, f"data/{dataset}"), **shared}
    range_ = "a z-score per case" if window is None else f"window {window[0]:g} to {window[1]:g} HU"
    given = "as asked" if answers.window is not None or window is None else f"EMKD's for {dataset}, --window to change"
    return (
        preprocessing,
        data,
        [f"input: {answers.modality}, {range_} ({given}); task {task}, classes {', '.join(names)}"],
    )


def _images(found: Converted, answers: Answers) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The same for a classifier of images."""
    names = _class_names(answers.class_names, found.network["num_classes"], "in the order of its folders (by alphabet)")
    shown = found.network.get("image_size")
    if shown and answers.image_size not in (None, shown):
        raise ValueError(f"--image_size {answers.image_size}: its weights are made for {shown}")
    size = shown or answers.image_size or 224
    prepared = preparation(size, found.network["in_channels"], answers.normalization)
    data = {"name": "image_folder", "root": answers.root or "data/hdkd", "image_size": size}
    data["normalization"] = answers.normalization
    line = f"input: images of {size}x{size}, normalization {answers.normalization}; classes {', '.join(names)}"
    return {"kind": "image", "class_names": names, **as_json(prepared)}, data, [line]


def _class_names(names: Sequence[str] | None, count: int, how: str) -> list[str]:
    if names is None:
        raise ValueError(f"--class_names: it has {count} classes whose names are not in the file; give them {how}")
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"--class_names {' '.join(names)}: it has {count} different classes, {how}")
    return list(names)


def _summary(path: Path, found: Converted, others: Sequence[Converted]) -> list[str]:
    section = {key: value for key, value in found.network.items() if key != "name"}
    lines = [f"{path}: {found.source}'s {found.network['name']}, {len(found.weights)} tensors; {section}"]
    if found.unused:
        lines.append(
            f"left out: {len(found.unused)} tensors that the published code never reads ({found.unused[0]}, ...)"
        )
    lines += [
        f"left out: {each.network['name']} under {each.prefix} (--prefix {each.prefix} takes it)" for each in others
    ]
    return lines


def _split(answers: Answers) -> tuple[dict[str, Any], str]:
    """The split that a checkpoint carries, and a line about it.

    Raises ValueError for a split of other patients than the data's: no leak would be seen.
    """
    if answers.split_file is None:
        return dict(checkpoints.UNKNOWN_SPLIT), (
            "split: unknown; train_kd.py asks for --allow_leak to distil from it, and it is scored on no split: give "
            "the --split_file of its training to have leaks checked"
        )
    patients = read_split(answers.split_file)
    named = {patient for members in patients.values() for patient in members}
    stored = Path(answers.root or "") / "split.json"
    if answers.root is not None and stored.is_file():
        of_the_data = {patient for members in read_split(stored).values() for patient in members}
        if not named & of_the_data:
            raise ValueError(
                f"{answers.split_file}: names none of the patients of {answers.root} (it has {min(named)}, the data "
                f"{min(of_the_data)}): give the names that the data have"
            )
    counts = ", ".join(f"{len(members)} {name}" for name, members in patients.items())
    return {**patients, "sha256": split_sha256(patients)}, f"split: {counts} patients, such as {min(named)}"
