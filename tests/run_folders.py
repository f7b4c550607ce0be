"""Run folders that were never trained: a tiny checkpoint, and a test result with the scores that a test needs."""

import csv
import json
from pathlib import Path

import torch

from networks import NETWORKS
from utils.evaluation.inference import make_metrics
from utils.training import checkpoints

UNET = {"name": "unet", "widths": [2, 2, 2, 2, 2], "in_channels": 1, "num_classes": 2}
SQUEEZENET = {"name": "squeezenet", "in_channels": 3, "num_classes": 2}


def dice_rows(dice, voxels=100, class_name="tumor"):
    """A row a case from Dice by case; voxels: of every target, or by case."""
    return [
        {
            "case": case,
            "class": class_name,
            "dice": float(value),
            "target_voxels": voxels if isinstance(voxels, int) else voxels[case],
        }
        for case, value in dice.items()
    ]


def answer_rows(probability, target):
    """A row an image from the probability of class 1 and the class of each."""
    return [
        {
            "case": f"{number:03d}",
            "target": int(label),
            "prediction": int(value > 0.5),
            "probability": [1 - float(value), float(value)],
            "target_probability": float(value if label else 1 - value),
        }
        for number, (value, label) in enumerate(zip(probability, target, strict=True))
    ]


def write_run(folder, rows, seed=0, weights_seed=None, scores=None, split="split", teacher=None, terms=(), **tested):
    """A run folder with these test rows. tested: further content of test.json."""
    images = "probability" in rows[0]
    network = SQUEEZENET if images else UNET
    torch.manual_seed(seed if weights_seed is None else weights_seed)
    model = NETWORKS[network["name"]](**{key: value for key, value in network.items() if key != "name"})
    names = ["benign", "malignant"] if images else ["tumor"]
    kind = {"kind": "image", "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    volumes = {
        "modality": "CT",
        "task": "all",
        "window": [-200.0, 300.0],
        "pad_value": -1.0,
        "crop": 32,
        "multiple": 32,
    }
    if scores is None:
        scores = {"accuracy": 0.5, "balanced_accuracy": 0.5, "calibration_error": 0.1}
        scores = scores if images else {"dice": sum(row["dice"] for row in rows) / len(rows)}
    metric = {"name": "classification"} if images else {"name": "volume_dice"}
    data = {"name": "image_folder"} if images else {"name": "slices", "root": "data"}
    recipe = {"data": data, "network": {"name": network["name"]}, "metric": metric, "training": {}, "seed": seed}
    recipe |= {"output": str(folder)} | ({"teacher": str(teacher)} if teacher else {})
    recipe |= {"distillation": list(terms)} if terms else {}
    selected = {"dice": 0.5, "balanced_accuracy": 0.5}
    folder.mkdir(parents=True)
    checkpoint = {
        "network": network,
        "weights": model.state_dict(),
        "preprocessing": {"class_names": names, **(kind if images else volumes)},
        "split": {"train": ["t"], "val": ["v"], "test": ["x"], "sha256": split},
        "scores": {"scores": selected, "cases": rows},
        "recipe": recipe,
    }
    checkpoints.save(checkpoint, folder / "best.ckpt")
    content = {
        "checkpoint": str(folder / "best.ckpt"),
        "checkpoint_sha256": checkpoints.sha256(folder / "best.ckpt"),
        "data": data,
        "split_sha256": split,
        "cases": len({row["case"] for row in rows}),
        "empty_mask_rule": make_metrics(metric, names)[0].empty_mask_rule,
        "scores": scores,
        "rows": rows,
        **tested,
    }
    (folder / "test.json").write_text(json.dumps(content))
    return folder


def history(folder: Path) -> list[dict[str, str]]:
    """The lines of a run's history.csv without the speed, which differs from run to run."""
    with (folder / "history.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "images_per_second"} for row in csv.DictReader(file)
        ]
