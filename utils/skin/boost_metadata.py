"""Boosting from a checkpoint and metadata to scores: folds of val, test read once, predictions.csv and a summary."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.files import replacing
from datasets.slices.store import write_json
from utils.evaluation.statistics import INTERVAL, RULE, Comparison
from utils.recipe.schema import Training
from utils.runs.comparison import spread
from utils.skin.boosting import (
    SCORES,
    Boosting,
    Table,
    compare_models,
    fit,
    out_of_fold,
    patient_folds,
    score,
)
from utils.skin.lesion_tables import Lesions, read_lesion_tables
from utils.tables import table as aligned
from utils.training import checkpoints
from utils.training.launch import launch

MODELS = ("student", "metadata", "embedding", "both")


def boost(args: argparse.Namespace) -> int:
    """Embed, cross-validate, read test if it was not, write, and print the summary."""
    settings = Boosting(args.iterations, args.learning_rate, args.depth, args.seed)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size}: give 1 or more")
    student = checkpoints.load(args.checkpoint)
    file = args.checkpoint / "best.ckpt" if args.checkpoint.is_dir() else args.checkpoint
    said = {"columns": args.columns, "tap": args.tap, "folds": args.folds}
    said = {"kind": "sklearn", **asdict(settings), **said}
    identity = {"checkpoint_sha256": checkpoints.sha256(file), "settings": said}
    known = read_before(args.outpath / "boosting.json", identity)
    if known is not None:
        print("test was read before with these settings:")
        summarize(known, args.outpath)
        return 0
    if student["recipe"]["data"].get("name") != "isic":
        raise ValueError(f"{file}: was trained on {student['recipe']['data'].get('name')}, not on isic's metadata")
    data = student["recipe"]["data"] | ({"root": str(args.root)} if args.root else {})
    fabric, network = launch(Training(accelerator=args.accelerator, precision="32-true")), checkpoints.rebuild(student)
    columns = "all" if args.columns == ["all"] else args.columns
    looks = {"columns": columns, "taps": args.tap, "batch_size": args.batch_size, "workers": args.workers}
    val = read_lesion_tables(fabric, network, student, data, "val", **looks)
    report: dict[str, Any] = {"checkpoint": str(file), "split_sha256": student["split"]["sha256"], **identity}
    report["val"], rows = cross_validate(settings, val, args.folds)
    if not args.no_test:
        test = read_lesion_tables(fabric, network, student, data, "test", **looks)
        report["test"], more = score_test(settings, val, test)
        rows += more
    args.outpath.mkdir(parents=True, exist_ok=True)
    write_predictions(args.outpath / "predictions.csv", rows)
    write_json(args.outpath / "boosting.json", report)
    summarize(report, args.outpath)
    return 0


def cross_validate(settings: Boosting, val: Lesions, folds: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """The scores of every model in every fold of val, and the rows of predictions.csv."""
    parts = list(patient_folds(val.target, val.patients, folds, settings.seed))
    probability = {"student": val.student}
    for name, table in progress(val.tables, "folds of val"):
        probability[name] = out_of_fold(settings, table, val.target, parts)
    found = {
        name: [score(values[scored], val.target[scored]) for _, scored in parts] for name, values in probability.items()
    }
    fold_of = np.empty(len(val.cases), int)
    for number, (_, scored) in enumerate(parts):
        fold_of[scored] = number
    return describe(val) | {"scores": found}, rows_of("val", val, fold_of.tolist(), probability)


def score_test(settings: Boosting, val: Lesions, test: Lesions) -> tuple[dict[str, Any], list[list[Any]]]:
    """The scores on test of every model fitted on all of val, and the rows of predictions.csv."""
    probability = {"student": test.student}
    for name, table in progress(val.tables, "fit on val"):
        probability[name] = fit(settings, table, val.target)(test.tables[name].values)
    intervals, compared = compare_models(probability, test.target, test.patients, "student")
    found = {name: score(values, test.target) for name, values in probability.items()}
    report = describe(test) | {"scores": found, "partial_auc_intervals": intervals}
    report["partial_auc_gains"] = {name: asdict(each) for name, each in compared.items()}
    return report, rows_of("test", test, [""] * len(test.cases), probability)


def read_before(file: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The report of an earlier reading of test with this checkpoint and settings; None before there is any.

    Raises ValueError when test was read otherwise: settings are not chosen on it.
    """
    if not file.is_file():
        if (foreign := file.with_name("predictions.csv")).exists():
            raise ValueError(f"{foreign}: is there already, without {file.name}: choose another --outpath")
        return None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        known["checkpoint_sha256"], known["settings"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{file}: is damaged, or not written by this command: choose another --outpath") from None
    if "test" not in known:
        return None
    for key, value in identity.items():
        if known[key] != value:
            raise ValueError(
                f"{file}: test was read with another {key.removesuffix('_sha256')}: give another --outpath, and choose "
                "settings with --no_test"
            )
    return known


def progress(tables: dict[str, Table], what: str) -> Iterable[tuple[str, Table]]:
    return tqdm(tables.items(), what, unit="model", disable=None)


def describe(lesions: Lesions) -> dict[str, int]:
    ill = {patient for patient, label in zip(lesions.patients, lesions.target, strict=True) if label}
    return {
        "lesions": len(lesions.cases),
        "malignant": int(lesions.target.sum()),
        "patients": len(set(lesions.patients)),
        "patients_malignant": len(ill),
    }


def rows_of(split: str, lesions: Lesions, folds: Sequence[Any], probability: dict[str, np.ndarray]) -> list[list[Any]]:
    return [
        [case, patient, int(target), split, fold, *(f"{probability[name][row]:.6g}" for name in MODELS)]
        for row, (case, patient, target, fold) in enumerate(
            zip(lesions.cases, lesions.patients, lesions.target, folds, strict=True)
        )
    ]


def write_predictions(file: Path, rows: Sequence[Sequence[Any]]) -> None:
    """CSV with a row a lesion; appears whole or not at all."""
    with replacing(file) as partial, partial.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["isic_id", "patient_id", "target", "split", "fold", *MODELS])
        writer.writerows(rows)


def summarize(report: dict[str, Any], out: Path) -> None:
    """Print the scores, on one screen."""
    settings = report["settings"]
    print(f"{report['checkpoint']}; {settings['kind']}, {settings['iterations']} trees, seed {settings['seed']}")
    for split in ("val", "test"):
        if split in report:
            count = {key: f"{value:,}" for key, value in report[split].items() if key != "scores" and key[:4] != "part"}
            ill = f"{count['malignant']} malignant of {count['patients_malignant']} patients"
            how = f"; mean ± sd of {settings['folds']} folds" if split == "val" else ""
            print(f"\n{split}: {count['lesions']} lesions of {count['patients']} patients, {ill}{how}")
            print(aligned([row_of(name, report[split]) for name in MODELS]))
    if "test" in report:
        found = Comparison(**report["test"]["partial_auc_gains"]["both"])
        ends = f"95 % interval [{found.low:+.4f}, {found.high:+.4f}] over patients"
        print(f"\nboth - student: {found.mean:+.4f} pAUC, {ends}: {found.named('both')}")
        print(f"{RULE[:1].upper()}{RULE[1:]}; {INTERVAL}.")
    print(f"\nwhere  {out}: boosting.json, predictions.csv; the booster is not written, the same command fits it")


def row_of(name: str, part: dict[str, Any]) -> dict[str, str]:
    """One model's line of the summary; over folds, or of test with the interval."""
    found = part["scores"][name]
    row = {"model": name}
    for key, label in zip(SCORES, ("pAUC", "AUROC", "average precision"), strict=True):
        row[label] = spread([fold[key] for fold in found]) if isinstance(found, list) else f"{found[key]:.4f}"
    if "partial_auc_intervals" in part:
        low, high = part["partial_auc_intervals"][name]
        row["pAUC, 95 % over patients"] = f"{low:.4f} to {high:.4f}"
    return row
