"""The test split: read once for a checkpoint and its data, and what it said."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from datasets import DATASETS
from datasets.files import write_text
from datasets.findings import listed
from datasets.fingerprints import fingerprint
from datasets.slices.soft_maps import read_maps
from datasets.slices.taught import SoftTeacher
from utils.evaluation.agreement import TeachersLabels
from utils.evaluation.drawing import write_png
from utils.evaluation.inference import evaluate, make_metrics, predict
from utils.evaluation.kind import kind_of
from utils.evaluation.pictures import draw, representative
from utils.evaluation.source_grid import on_source
from utils.experiment.labels import against
from utils.experiment.neighbors import seen_by
from utils.experiment.resuming import PLACES
from utils.experiment.soft_check import soft_targets
from utils.recipe.registry import build
from utils.recipe.schema import Recipe, soft_folders
from utils.runs.data import open_split
from utils.runs.results import labels_seen, read_result
from utils.tables import table
from utils.training import checkpoints
from utils.training.launch import launch
from utils.training.loading import Loader

PICTURED = 24


def test(recipe: Recipe) -> int:
    """Scores best.ckpt on the test split, once: a second call shows what the first one wrote to OUTPUT/test.json.

    Where best.ckpt or the data have changed since, the test split is read again, and the earlier result kept under
    another name. Raises ValueError when a test patient was trained or selected on.
    """
    output = Path(recipe.output)
    file = output / "test.json"
    best = output / "best.ckpt"
    checkpoint = checkpoints.load(best)
    digest = checkpoints.sha256(best)
    moved = {key: recipe.data[key] for key in PLACES if key in recipe.data}  # the data may lie elsewhere now
    data = checkpoint["recipe"]["data"] | moved
    known, why = _stored(file), ""
    try:
        source = checkpoint | {"recipe": checkpoint["recipe"] | {"data": data, "seed": recipe.seed}}
        dataset = open_split(source, "test", same_split=False, keep_decoded=True, where=best)
        content = fingerprint(dataset.digests, dataset.class_names)
        soft = None if dataset.has_labels else _soft_teacher(checkpoint)
        maps = None if soft is None else soft.sha256(dataset.cases)
    except (ValueError, OSError) as error:
        why = " ".join(str(error).split())
        if known is None or _changed(known, digest, data, None, None, None):
            raise
        dataset = content = maps = None
    changed = None if known is None else _changed(known, digest, data, dataset, content, maps)
    if known is not None and changed is None:
        print(f"test: stored on {known['tested']}, not read again; {_standing(known, dataset, why)}")
    else:
        fabric = launch(recipe.training)
        earlier = file.with_name(f"test_{known['tested'].replace(':', '')}.json") if known else None
        if earlier is not None and fabric.is_global_zero:
            print(f"test: read again, since {changed}; the earlier result is kept in {earlier}")
        known = {
            "checkpoint": str(best),
            "checkpoint_sha256": digest,
            "tested": datetime.now().astimezone().isoformat(timespec="seconds"),
            "data": data,
            "split_sha256": dataset.split_sha256,
            "data_fingerprint": content,
            "target_digests": {case: target for case, (_, target) in dataset.digests.items()},
            **({"maps_sha256": maps} if maps else {}),
            **_scored(recipe, checkpoint, dataset, fabric, output),
            **({"labels": seen} if (seen := labels_seen({"": checkpoint["recipe"]})) else {}),
        }
        if not fabric.is_global_zero:
            return 0
        if earlier is not None:
            file.rename(earlier)
        write_text(file, json.dumps(known, indent=1))
    where = ", on the grids of their sources" if known.get("grid") == "source" else ""
    print(f"test: {known['cases']} cases{where}, {best}\n{known['empty_mask_rule']}")
    if "labels" in known:
        print(f"labels: {known['labels']}")
    print(table([{"score": name, "value": f"{value:.4f}"} for name, value in known["scores"].items()]))
    print(f"every case: {file}; pictures: {output / 'test_*.png'}")
    return 0


def _stored(file: Path) -> dict[str, Any] | None:
    """The content of test.json, with the time it was written at; None where there is none."""
    if not file.is_file():
        return None
    known = read_result(file)
    written = datetime.fromtimestamp(file.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    return {"tested": written, **known}


def _changed(
    known: dict[str, Any],
    digest: str,
    data: dict[str, Any],
    dataset: Dataset | None,
    content: str | None,
    maps: str | None,
) -> str | None:
    """What has changed since a result was stored; None where nothing has, as far as can be seen.

    maps: the hash of the soft maps that stand for labels.
    """
    if known["checkpoint_sha256"] != digest:
        return f"best.ckpt has changed since {known['tested']}"
    then, now = ({key: value for key, value in each.items() if key not in PLACES} for each in (known["data"], data))
    if then != now:
        return f"the data section is another than on {known['tested']}"
    if maps is not None and known.get("maps_sha256", maps) != maps:
        return f"the soft maps that the student is held to have changed since {known['tested']}"
    if content is None or "data_fingerprint" not in known or known["data_fingerprint"] == content:
        return None
    targets = {case: target for case, (_, target) in dataset.digests.items()}
    before = known.get("target_digests", targets)
    cases = sorted(case for case in targets.keys() | before.keys() if targets.get(case) != before.get(case))
    if cases:
        return f"targets have changed since {known['tested']} (of {listed(cases)})"
    return f"test images have changed since {known['tested']}"


def _standing(known: dict[str, Any], dataset: Dataset | None, why: str) -> str:
    """What is known about the data of a stored result. why: the data could not be opened."""
    if dataset is None:
        return f"the data cannot be read now, so they were not compared with those of then ({why})"
    if "data_fingerprint" not in known:
        return "it does not record what the data held, so they were not compared with those of now"
    return f"the data are the same as then (fingerprint {known['data_fingerprint'][:12]})"


def _scored(
    recipe: Recipe, checkpoint: dict[str, Any], dataset: Dataset, fabric: Fabric, output: Path
) -> dict[str, Any]:
    """The scores of the test split; draws OUTPUT/test_*.png."""
    settings = recipe.training
    teacher = _teacher(checkpoint)
    teacher = None if teacher is None else fabric.to_device(teacher)
    targets, metric = None, against(recipe.metric, "labels")
    if not dataset.has_labels:
        targets, metric = _targets(checkpoint, dataset, fabric, teacher), {**recipe.metric, "against": "teacher"}
    network = fabric.to_device(checkpoints.rebuild(checkpoint))
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    source = on_source(dataset) if dataset.has_labels else None
    metrics = make_metrics(metric, dataset.class_names)
    metrics += kind_of(dataset.preprocessing).tested_beside(dataset.class_names) if dataset.has_labels else []
    scores, rows = evaluate(
        fabric,
        network,
        dataset,
        metrics,
        batch_size=settings.batch_size,
        loader=Loader(dataset, fabric.device, settings.workers),
        channels_last=settings.channels_last,
        source=source,
        targets=targets,
        description="test",
    )
    if fabric.is_global_zero:
        chosen = representative(dataset, PICTURED)
        pictures = draw(fabric, network, teacher, dataset, chosen, rows, settings.channels_last, targets)
        for name, picture in pictures.items():
            write_png(output / f"test_{name.replace(', ', '_')}.png", (picture * 255).astype(np.uint8))
    return {
        "cases": len(dataset.cases),
        **({"grid": "source"} if source else {}),
        "empty_mask_rule": metrics[0].empty_mask_rule,
        "scores": scores,
        "rows": rows,
    }


def _targets(checkpoint: dict[str, Any], dataset: Dataset, fabric: Fabric, teacher: nn.Module | None) -> TeachersLabels:
    """What the teacher answers, in the place of labels. Raises ValueError where it is not there any more."""
    path, data = checkpoint["recipe"].get("teacher"), checkpoint["recipe"]["data"] | {"root": str(dataset.root)}
    if soft := _soft_teacher(checkpoint):
        return soft_targets(soft, data, "test")
    if teacher is None:
        raise ValueError(
            f"{dataset.root}: has no labels, and the teacher {path or ''} is not there to agree with: give a store "
            "with labels as --data.root"
        )
    preprocessing = checkpoints.load(path)["preprocessing"]
    given = None
    if preprocessing.get("in_channels", 1) != dataset.in_channels:
        given = build(DATASETS, seen_by(data, preprocessing), "data", split="test")
    return TeachersLabels(lambda batch: predict(fabric, teacher, batch["image"]), given)


def _soft_teacher(checkpoint: dict[str, Any]) -> SoftTeacher | None:
    """The soft maps that the checkpoint learned from, if any. Raises ValueError where they are not there any more."""
    teacher = checkpoint["recipe"].get("teacher")
    folders = soft_folders(teacher)
    return SoftTeacher([read_maps(folder) for folder in folders], teacher.get("classes", {})) if folders else None


def _teacher(checkpoint: dict[str, Any]) -> nn.Module | None:
    """The teacher of the checkpoint, if it is still there, for its answers beside the student's."""
    path = checkpoint["recipe"].get("teacher")
    if not isinstance(path, str) or not path or not (file := checkpoints.file_of(path)).is_file():
        return None
    digest = checkpoints.sha256(file)
    if digest != checkpoint.get("teacher_sha256", digest):
        print(f"note: {file}: has changed since it taught this run: its answers are left out of the pictures")
        return None
    return checkpoints.rebuild(checkpoints.load(file))
