"""The test split: read once for a checkpoint, and what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from datasets import DATASETS
from utils import checkpoints
from utils.config import Recipe, build
from utils.guards import table
from utils.inference import evaluate, make_metrics
from utils.launch import launch
from utils.metrics import VolumeDice
from utils.pictures import draw, telling
from utils.prediction.ranked_dice import RankedDice

PICTURED = 24
PLACES = ("root", "file", "index", "patients")


def test(recipe: Recipe) -> int:
    """Scores best.ckpt on the test split, once: a second call shows what the first one wrote to OUTPUT/test.json."""
    output = Path(recipe.output)
    file = output / "test.json"
    best = output / "best.ckpt"
    checkpoint = checkpoints.load(best)
    digest = checkpoints.sha256(best)
    known = json.loads(file.read_text()) if file.is_file() else None
    moved = {key: recipe.data[key] for key in PLACES if key in recipe.data}  # the data may lie elsewhere now
    data = checkpoint["recipe"]["data"] | moved
    if known is None or (known["checkpoint_sha256"], known["data"]) != (digest, data):
        fabric = launch(recipe.training)
        dataset = build(DATASETS, data, "data", split="test", seed=recipe.seed)
        seen = sorted((set(checkpoint["split"]["train"]) | set(checkpoint["split"]["val"])) & set(dataset.patients))
        if seen:
            raise ValueError(
                f"{best}: was trained or selected on test patients {', '.join(seen[:5])}; nothing was scored"
            )
        network = fabric.to_device(checkpoints.rebuild(checkpoint))
        if recipe.training.channels_last:
            network = network.to(memory_format=torch.channels_last)
        metrics = make_metrics(recipe.metric, dataset.class_names)
        if isinstance(metrics[0], VolumeDice):
            metrics.append(RankedDice(dataset.class_names))
        scores, rows = evaluate(
            fabric,
            network,
            dataset,
            metrics,
            batch_size=recipe.training.batch_size,
            workers=recipe.training.workers,
            channels_last=recipe.training.channels_last,
            description="test",
        )
        known = {
            "checkpoint": str(best),
            "checkpoint_sha256": digest,
            "data": data,
            "split_sha256": dataset.split_sha256,
            "cases": len(dataset.cases),
            "empty_mask_rule": metrics[0].empty_mask_rule,
            "scores": scores,
            "rows": rows,
        }
        if not fabric.is_global_zero:
            return 0
        teacher = _teacher(checkpoint, fabric)
        pictures = draw(
            fabric, network, teacher, dataset, telling(dataset, PICTURED), rows, recipe.training.channels_last
        )
        for name, picture in pictures.items():
            image = Image.fromarray((picture * 255).astype(np.uint8))
            image.save(output / f"test_{name.replace(', ', '_')}.png")
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(file)
    print(f"test: {known['cases']} cases, {best}\n{known['empty_mask_rule']}")
    print(table([{"score": name, "value": f"{value:.4f}"} for name, value in known["scores"].items()]))
    print(f"every case: {file}; pictures: {output / 'test_*.png'}")
    return 0


def _teacher(checkpoint: dict[str, Any], fabric: Fabric) -> nn.Module | None:
    """The teacher of the checkpoint, if it is still there, for its answers beside the student's."""
    path = checkpoint["recipe"].get("teacher")
    if not path or not Path(path).is_file():
        return None
    return fabric.to_device(checkpoints.rebuild(checkpoints.load(path)))
