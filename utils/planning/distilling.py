"""From scans that nobody labeled and any teacher to an exported student: the stages of scripts/Distill.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from datasets.files import write_text
from datasets.findings import listed
from datasets.json_files import read_json
from datasets.slices.soft_maps import MANIFEST, read_maps
from datasets.slices.store import read_index, read_manifest
from datasets.splits import SPLITS
from networks import SEGMENTATION
from utils.planning.recipes import listed as reasons
from utils.planning.stages import Stage, run_stages
from utils.planning.unlabeled import recipe_without_labels, spacing_of_scans
from utils.recipe.registry import check
from utils.teaching.flags import check_teacher, refuse_unknown_patients, teacher_words
from utils.teaching.folds import known_splits
from utils.teaching.nnunet import read_model_folder
from utils.teaching.sidecar import read_sidecar
from utils.training import checkpoints

STORE = "dataset.json"  # what SliceMaker.py writes last


def distill(args: argparse.Namespace, scripts: Mapping[str, str]) -> int:
    """Run the stages that are not done, and print what came of them; returns the status of one that fails, else 0.

    scripts: the file of each stage's command, from the repository's root on. Raises ValueError, before anything is
    made, for a student that is not known and a teacher that cannot teach.
    """
    check(SEGMENTATION, {"name": args.student}, "--student")
    refuse_useless(args)
    preprocessing = checkpoints.load(args.checkpoint[0])["preprocessing"] if args.checkpoint else None
    if preprocessing is not None and args.modality not in (None, preprocessing["modality"]):
        raise ValueError(f"--modality {args.modality}: {args.checkpoint[0]} was trained on {preprocessing['modality']}")
    args.output.mkdir(parents=True, exist_ok=True)
    if status := run_stages(stages_of(args, preprocessing, scripts), "Distill"):
        return status
    for line in summary(args.output, args.student):
        print(line)
    return 0


def refuse_useless(args: argparse.Namespace) -> None:
    """Raises ValueError for a teacher that cannot, or must not, answer the scans once they are sliced."""
    check_teacher(args)
    refuse_unknown_patients(args)
    if args.onnx:
        read_sidecar(args.sidecar)
    if args.nnunet:
        plans, _ = read_model_folder(folder := args.nnunet[0].absolute())
        known_splits(folder, plans.get("dataset_name", ""), args.splits_final, args.allow_leak)


def stages_of(
    args: argparse.Namespace, preprocessing: Mapping[str, Any] | None, scripts: Mapping[str, str]
) -> Iterator[Stage]:
    """The stages in their order, each made once those before it are done.

    preprocessing: the teacher's, where it is a checkpoint of ours.
    """
    slices, maps, run, export = (args.output / name for name in ("slices", "maps", "run", "export"))
    words = ["--inpath", str(args.scans), "--outpath", str(slices), "--dataset", "unlabeled", "--seed", str(args.seed)]
    words += slicing_words(args, preprocessing, slices)
    words += ["--jobs", str(args.jobs)] if args.jobs else []
    yield Stage("slices", [scripts["slices"], *words], lambda: unsliced(slices), fine=(0, 1))
    # of test, too: there the student is held to its teacher, once
    words = ["--data", str(slices), "--output", str(maps), "--splits", *SPLITS, *teacher_words(args)]
    yield Stage("maps", [scripts["maps"], *words], lambda: unanswered(slices, maps))
    recipe = args.output / "student.yaml"
    write_recipe(recipe, args, preprocessing)
    command = [scripts["training"], "--config", str(recipe), *(["--allow_leak"] if args.allow_leak else [])]
    begun = ["--resume"] if any((run / name).exists() for name in ("config.yaml", "last.ckpt")) else []
    yield Stage("training", [*command, *begun], lambda: untested(run) and untrained(run))
    yield Stage("test", [*command, "--mode", "test"], lambda: untested(run))
    words = ["--checkpoint", str(run), "--output", str(export), "--name", args.student]
    yield Stage("export", [scripts["export"], *words], lambda: unexported(export))


def slicing_words(args: argparse.Namespace, preprocessing: Mapping[str, Any] | None, slices: Path) -> list[str]:
    """Modality and millimeters of the slices: those of a checkpoint, else as the scans have them."""
    if preprocessing is not None:
        modality = preprocessing["modality"]
        spacings = {key: preprocessing.get(key) for key in ("spacing", "slice_spacing")}
    else:
        modality = args.modality
        there = (slices / STORE).is_file()
        spacing = read_manifest(slices).get("spacing") if there else None
        spacings = {"spacing": spacing if there else spacing_of_scans(args.scans, modality, args.seed)}
    words = ["--modality", modality] if modality else []
    for key, value in spacings.items():
        words += [f"--{key}", f"{value:g}"] if value else []
    return words


def unsliced(slices: Path) -> str:
    """Whether the store is there with a case that could be used: what is said where it is not."""
    return "" if (slices / STORE).is_file() and read_index(slices) else "no scan could be used"


def unanswered(slices: Path, maps: Path) -> str:
    """Which cases of the store have no maps."""
    held = read_maps(maps).cases if (maps / MANIFEST).is_file() else {}
    if not (missing := sorted({record.case for record in read_index(slices)} - held.keys())):
        return ""
    what = "give what the teacher answers to them, or put these scans elsewhere and begin in another --output"
    return f"{len(missing)} scans have no maps, {listed(missing)}: {what}"


def untrained(run: Path) -> str:
    """Which epochs the run lacks."""
    if not (run / "last.ckpt").is_file():
        return "no epoch has ended"
    last = checkpoints.load(run / "last.ckpt")
    epochs = last["recipe"]["training"]["epochs"]
    return "" if last["epoch"] >= epochs else f"{last['epoch']} of {epochs} epochs"


def untested(run: Path) -> str:
    """Whether the run has its scores: what is said where it has not."""
    return "" if (run / "test.json").is_file() else "no scores"


def unexported(export: Path) -> str:
    """Whether the export is whole: what is said where it is not."""
    return "" if (export / "README.md").is_file() else "no exported student"


def write_recipe(file: Path, args: argparse.Namespace, preprocessing: Mapping[str, Any] | None) -> None:
    """Write the student's recipe, and print what was chosen for it.

    Raises ValueError where another one is there, from other flags or other hands.
    """
    slices, maps, run = (args.output / name for name in ("slices", "maps", "run"))
    recipe, chosen = recipe_without_labels(slices, maps, run, preprocessing, args.student, args.seed, args.epochs)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{file}: is of other flags, or was changed: give those flags again, or another --output")
    if not file.exists():
        print("\n".join(reasons(chosen)), flush=True)
    write_text(file, text)


def summary(output: Path, student: str) -> list[str]:
    """What came of it, on one screen."""
    tested = read_json(output / "run/test.json")
    export = output / "export"
    description = read_json(export / "student.json")
    agreement = ", ".join(
        f"{name.removeprefix('agreement/dice').lstrip('/') or 'mean'} {value:.3f}"
        for name, value in tested["scores"].items()
        if name.startswith("agreement/dice")
    )
    lines = [
        "",
        f"student    {student}, {description['parameters'] / 1e6:.2f} M parameters",
        f"agreement  Dice with its teacher on {tested['cases']} scans that training did not see: {agreement}",
        f"labels     {tested['labels']}",
    ]
    for name, facts in description["files"].items():
        lines.append(f"  {facts['bytes'] / 1e6:7.2f} MB  {export / name}")
    return [*lines, f"next       python scripts/predict.py --checkpoint {export} --input FOLDER --output FOLDER"]
