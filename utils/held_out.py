"""The test split: read once for a checkpoint, and what it said."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from datasets import DATASETS
from utils import checkpoints
from utils.config import Recipe, build
from utils.guards import table
from utils.inference import evaluate
from utils.launch import launch
from utils.metrics import METRICS


def test(recipe: Recipe) -> int:
    """Scores best.ckpt on the test split, once: a second call shows what the first one wrote to OUTPUT/test.json."""
    output = Path(recipe.output)
    file = output / "test.json"
    best = output / "best.ckpt"
    checkpoint = checkpoints.load(best)
    digest = checkpoints.sha256(best)
    known = json.loads(file.read_text()) if file.is_file() else None
    if known is None or known["checkpoint_sha256"] != digest:
        fabric = launch(recipe.training)
        data = checkpoint["recipe"]["data"] | {"root": recipe.data.get("root", checkpoint["recipe"]["data"]["root"])}
        dataset = build(DATASETS, data, "data", split="test", seed=recipe.seed)
        seen = sorted((set(checkpoint["split"]["train"]) | set(checkpoint["split"]["val"])) & set(dataset.patients))
        if seen:
            raise ValueError(
                f"{best}: was trained or selected on test patients {', '.join(seen[:5])}; nothing was scored"
            )
        network = fabric.to_device(checkpoints.rebuild(checkpoint))
        if recipe.training.channels_last:
            network = network.to(memory_format=torch.channels_last)
        names = dataset.class_names
        metrics = [build(METRICS, recipe.metric, "metric", class_names=names), METRICS["published"](class_names=names)]
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
            "split_sha256": checkpoint["split"]["sha256"],
            "cases": len(dataset.cases),
            "empty_mask_rule": metrics[0].empty_mask_rule,
            "scores": scores,
            "rows": rows,
        }
        if not fabric.is_global_zero:
            return 0
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(file)
    print(f"test: {known['cases']} cases, {best}\n{known['empty_mask_rule']}")
    print(table([{"score": name, "value": f"{value:.4f}"} for name, value in known["scores"].items()]))
    print(f"every case: {file}")
    return 0
