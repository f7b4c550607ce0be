"""Predicts what scripts/predict.py is asked for: every case in its turn, a bad one reported, and a summary."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from datasets.files import alone_in, describe
from datasets.images.raw_images import image_files
from datasets.slices.resampling import asked_spacing
from datasets.volumes.scans import RECORD, Case
from utils.command import run_command
from utils.evaluation.kind import IMAGES
from utils.machine import memory_limit
from utils.prediction.flags import build_parser
from utils.prediction.images import TABLE, classify_files, write_table
from utils.prediction.latency import ALL_STAGES
from utils.prediction.locating import Locator, load_locator, other_split
from utils.prediction.on_device import OnDevice
from utils.prediction.outputs import LABELS, PROBABILITIES, SERIES, Predictions
from utils.prediction.predictor import Predictor
from utils.prediction.read_ahead import run_ahead
from utils.prediction.search import find_volumes
from utils.prediction.volumes import Options, VolumeSteps, peak_memory
from utils.runs.engines import load_models
from utils.runs.models import Model
from utils.tables import table
from utils.training.device import MIXED, choose_device

READ_AHEAD_BYTES = 1 << 30
CPU_BATCH, GPU_BATCH = 4, 16


def predict(args: argparse.Namespace) -> int:
    """Load the checkpoints, and predict volumes or images, as the checkpoints do."""
    check_flags(args)
    models = load_models(args.checkpoint, args.engine)
    predictor = make_predictor(args, models)
    with alone_in(args.output):
        return (predict_images if models[0].kind is IMAGES else predict_volumes)(args, predictor, models)


def check_flags(args: argparse.Namespace) -> None:
    for name, least in (("batch_size", 1), ("jobs", 1), ("channel", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: give {least} or more")
    for name, value in (("minimum_volume", args.minimum_volume), ("memory", args.memory)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"--{name} {value}: give a number of at least 0")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here: use --device cpu")
    if not args.input.exists():
        raise ValueError(f"{args.input}: no such file or folder: give what to predict as --input")
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output}: is a file: give a folder as --output")


def make_locator(args: argparse.Namespace, predictor: Predictor, models: list[Model]) -> Locator | None:
    """What --locate names, on the device of the others and in the precision that it was trained in."""
    if args.locate is None:
        return None
    model, margin = load_locator(args.locate, models)
    device = choose_device(args.device, model.training.get("precision", "auto"))
    if line := other_split(margin, models):
        tqdm.write(f"note: {line}")
    found = ", ".join(margin.class_names)
    tqdm.write(f"locator: {found} and {margin.margin_mm:g} mm around it, {args.locate}")
    return Locator(Predictor([OnDevice(model, device)], predictor.batch_size), margin, predictor.networks)


def make_predictor(args: argparse.Namespace, models: list[Model]) -> Predictor:
    if all(model.engine != "torch" for model in models):
        if args.precision in MIXED:
            raise ValueError(f"--precision {args.precision}: {models[0].engine} computes as exported: leave it out")
        args.precision = "32-true"
    args.precision = args.precision or models[0].training.get("precision", "auto")
    device = choose_device(args.device, args.precision)
    args.precision = device.precision
    batch_size = args.batch_size or (CPU_BATCH if device.device.type == "cpu" else GPU_BATCH)
    return Predictor([OnDevice(model, device) for model in models], batch_size, args.flip)


def predict_volumes(args: argparse.Namespace, predictor: Predictor, models: list[Model]) -> int:
    """Predict every case that is not yet, and print what became of them and what took the time."""
    started = time.monotonic()
    preprocessing = models[0].preprocessing
    names = preprocessing["class_names"]
    options = Options(
        class_names=names,
        modality=preprocessing["modality"],
        channel=args.channel,
        slice_axis=args.slice_axis,
        probabilities=args.probabilities,
        largest=numbers_of(args.largest, names),
        minimum_ml=args.minimum_volume,
        limit=memory_limit() if args.memory is None else args.memory * 1e9,
    )
    if args.input.is_dir() and args.output.samefile(args.input):
        raise ValueError(f"{args.output}: is the input: choose another --output, or a folder in it")
    found = find_volumes(args.input)
    for line in (*found.passed_over, *(finding for finding in found.findings if not finding.bad)):
        tqdm.write(f"note: {line}")
    for finding in (finding for finding in found.findings if finding.bad):
        tqdm.write(str(finding), sys.stderr)
    cases, bad = found.cases, sum(finding.bad for finding in found.findings)
    suffixes = [SERIES] * args.mha + [PROBABILITIES] * args.probabilities + [LABELS]
    locator = make_locator(args, predictor, models)
    made = made_by(args, models, options, locator)
    predictions = Predictions(args.output, cases, suffixes, made, args.overwrite)
    todo, entries, kept = [], [], 0
    for case in cases:
        try:
            if predictions.kept(case):
                kept += 1
            else:
                todo.append(case)
        except (ValueError, OSError) as error:
            bad += report(case, error)
    slices = tqdm(unit="slice", leave=False, position=1, disable=None)  # None: only on a terminal
    steps = VolumeSteps(predictor, predictions, options, slices, locator)
    outcomes = run_ahead(todo, steps.open, steps.read, steps.label, steps.finish, args.jobs, READ_AHEAD_BYTES)
    with slices, tqdm(outcomes, total=len(todo), unit="case", desc="predicting", disable=None) as bar:
        for case, result in bar:
            if isinstance(result, Exception):
                bad += report(case, result)
                continue
            entries.append(result)
            for note in result["notes"]:
                tqdm.write(f"note: {case.path}: {note}")
    summarize(args, predictor, entries, f"{len(entries)} predicted now, {kept} kept, {bad} bad", started)
    return 1 if bad else 0


def numbers_of(wanted: list[str] | None, names: list[str]) -> list[int]:
    """Numbers of the classes named after --largest; of all for none named; none without the flag."""
    for name in wanted or []:
        if name not in names:
            raise ValueError(f"--largest {name}: the checkpoint knows {', '.join(names)}")
    return [] if wanted is None else [number for number, name in enumerate(names, start=1) if name in (wanted or names)]


def made_by(
    args: argparse.Namespace, models: list[Model], options: Options, locator: Locator | None = None
) -> dict[str, Any]:
    """What labels depend on besides the image.

    resampled_to: mm in-plane and of slabs, of each checkpoint. engine: as asked for; int8 alone depends on it.
    """
    found_by = {} if locator is None else {"locator": [locator.sha256, locator.margin.margin_mm]}
    spacings = [asked_spacing(model.preprocessing) for model in models]
    int8 = any(model.format == "onnx int8" for model in models)
    return {
        "checkpoints": [model.sha256 for model in models],
        "options": {
            "precision": args.precision,
            "flip": args.flip,
            "largest": list(options.largest),
            "minimum_ml": options.minimum_ml,
            "channel": options.channel,
            "slice_axis": options.slice_axis,
            **({"resampled_to": [list(each) for each in spacings]} if any(map(any, spacings)) else {}),
            **({"engine": args.engine} if int8 else {}),
            **found_by,
        },
    }


def report(case: Case, error: Exception) -> int:
    """Print what is wrong with a case in one line; returns 1, a case."""
    what = " ".join(str(error).split())[:500]
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        what = f"{case.path}: out of memory: use a smaller --batch_size, or a machine with more"
    elif isinstance(error, OSError):
        what = describe(error, case.path)
    elif not isinstance(error, ValueError):
        what = f"{case.path}: {type(error).__name__}: {what}: look at this case; if it is sound, report this"
    tqdm.write(what, sys.stderr)
    return 1


def summarize(
    args: argparse.Namespace, predictor: Predictor, entries: list[dict[str, Any]], counts: str, started: float
) -> None:
    """Print what was done and the seconds of each stage; read and write go on beside the others."""
    elapsed, device = time.monotonic() - started, predictor.networks[0].record()["device"]
    if entries:
        slices = sum(entry["slices"] for entry in entries)
        seconds = {stage: sum(entry["seconds"].get(stage, 0.0) for entry in entries) for stage in ALL_STAGES}
        whole = sum(seconds.values())
        lines = seconds | {"all stages": whole, "read and write alone": seconds["read"] + seconds["write"]}
        rows = [
            {
                "stage": name,
                "seconds": f"{value:.2f}",
                "s/case": f"{value / len(entries):.2f}",
                "ms/slice": f"{value / slices * 1e3:.1f}",
                "share": f"{value / whole:.0%}",
            }
            for name, value in lines.items()
        ]
        print(table(rows))
    print(f"{counts}, {elapsed:.1f} s, peak memory {peak_memory() / 1e6:.0f} MB ({device}, {args.precision})")
    print_engines(predictor)
    print(f"  labels  {', '.join(f'{n} {name}' for n, name in enumerate(predictor.class_names, start=1))}")
    print(f"  where   {args.output}, {RECORD} has volumes and times")


def print_engines(predictor: Predictor) -> None:
    ran = [network.record() for network in predictor.networks]
    for why in dict.fromkeys(f"{each['engine']} ({each['engine_why']})" for each in ran):
        print(f"  engine  {why}")


def predict_images(args: argparse.Namespace, predictor: Predictor, _: list[Model]) -> int:
    """Classify every image that can be read, and write the table."""
    names, table_file = predictor.class_names, args.output / TABLE
    for flag in ("probabilities", "mha", "locate", "largest", "minimum_volume", "channel", "slice_axis"):
        if getattr(args, flag) not in (None, False, 0):
            raise ValueError(f"--{flag}: is for volumes, this checkpoint classifies images: leave it out")
    if table_file.exists() and not args.overwrite:
        raise ValueError(f"{table_file}: is there already: choose another --output, or pass --overwrite")
    files, bad, rows = [args.input], 0, []
    if args.input.is_dir():
        found = image_files(args.input)
        for note in found.notes:
            tqdm.write(f"note: {note}")
        for line in found.bad:
            tqdm.write(line, sys.stderr)
        files, bad = found.files, len(found.bad)
    outcomes = classify_files(predictor, files, partial(tqdm.write, file=sys.stderr))
    for file, shares in tqdm(outcomes, total=len(files), unit="image", desc="predicting", disable=None):
        if shares is not None:
            rows.append((file, shares))
    if rows:
        write_table(table_file, args.input, rows, names)
    counts = Counter(names[int(shares.argmax())] for _, shares in rows)
    bad += len(files) - len(rows)
    print(f"{len(rows)} images predicted, {bad} bad")
    print_engines(predictor)
    print(f"  classes  {', '.join(f'{name} {counts[name]}' for name in names)}")
    print(f"  where    {table_file if rows else 'nothing was written'}")
    return 1 if bad else 0


if __name__ == "__main__":  # for timings, see latency.py
    sys.exit(run_command("predict", lambda: predict(build_parser().parse_args())))
