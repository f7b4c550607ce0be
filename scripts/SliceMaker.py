"""Slice CT and MR volumes into the store that training reads: one file per axial slice, an index, a split by patient.

Every case is checked. Cases that cannot be used are reported and left out, the others are finished, and the exit status
is then 1. A case is written completely or not at all. The same command continues an interrupted run: a case is sliced
again only if the size or modification time of its files, or the settings, changed.

  python scripts/SliceMaker.py --inpath raw/kits19 --outpath data/kits19 --dataset kits --task tumor
  python scripts/SliceMaker.py --inpath raw/kits19 --dataset kits --check

See docs/data.md for the layouts that go in and the store that comes out.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.files import keep_apart
from datasets.findings import Finding
from datasets.json_files import read_json
from datasets.publishing import NotOursError, left_behind
from datasets.slices.catalog import SplitWish, check_store, choose_split, describe_store, list_cases
from datasets.slices.resampling import asked_words
from datasets.slices.shards import hold_index, hold_store, read_shard, remove_leftovers
from datasets.slices.slicing import Job, Outcome, duplicates, settings_of, slice_case
from datasets.slices.store import CASES, index_rows, write_catalog
from datasets.splits import SPLITS, split_as_asked, split_sha256
from datasets.volumes.layouts import LAYOUTS, RawCase, RawDataset, find_cases
from utils.command import check_numbers, make_parser, run_command, say, with_bar
from utils.machine import cores
from utils.workers import explain, run

LEAST_MM = 0.1  # a finer grid than any scanner's would only fill the disk


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--inpath", "--in_path", required=True, type=Path, help="folder of the raw volumes")
    add("--outpath", "--out_path", type=Path, help="folder of the slice store (not needed with --check)")
    add("--dataset", required=True, choices=LAYOUTS, help="layout of the raw volumes")
    help_task = "what the summary counts and training takes by default; every label is stored whatever the task"
    add("--task", choices=("tumor", "organ", "all"), help=f"{help_task} (default: tumor where there is a tumor label)")
    add("--format", choices=("npz", "png"), default="npz", help="npz: int16 HU (MR: float); png: 16-bit, HU + 32768")
    add("--compress", action="store_true", help="smaller npz, slower to read")
    help_split = "shares of the patients (default: 0.7 0.1 0.2)"
    add("--split", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), help=help_split)
    add("--split_file", type=Path, help="JSON with lists train, val, test of patients, instead of --split")
    add("--fold", type=int, help="which fold, where --split_file is nnU-Net's splits_final.json (default: 0)")
    add("--seed", type=int, help="seed of --split (default: 0)")
    help_mode = "all: split the patients; train, val or test: IN holds the cases of this split and no other"
    add("--mode", choices=("all", *SPLITS), default="all", help=f"{help_mode}; run once per folder, into the same OUT")
    add("--channel", type=int, help="which channel of a multi-channel image, counted from 0")
    add("--modality", choices=("CT", "MR"), help="of unlabeled NIfTI files (default: CT)")
    help_spacing = "mm of a stored pixel: images and labels are resampled in-plane (default: as the volume has it)"
    add("--spacing", type=float, metavar="MM", help=help_spacing)
    help_slabs = "store the mean of so many neighboring slices as come closest to this (default: every slice)"
    add("--slice_spacing", type=float, metavar="MM", help=help_slabs)
    add("--check", action="store_true", help="only inspect: print `file: what: remedy`, exit 1 if a line was printed")
    add("--jobs", "--process_num", type=int, help="worker processes (default: one per core)")
    add("--shard", default="0/1", metavar="I/N", help="every N-th case from the I-th on (0 <= I < N): array jobs")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:8786) whose workers slice the cases")
    add("--overwrite", action="store_true", help="slice cases again that are published, and allow another split")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"
    return run_command("SliceMaker", lambda: slice_or_check(args), interrupted)


def slice_or_check(args: argparse.Namespace) -> int:
    """Find the cases, then look at them or slice them."""
    check_numbers(args, jobs=1, spacing=LEAST_MM, slice_spacing=LEAST_MM)
    raw = find_cases(args.dataset, args.inpath, args.channel, args.modality)
    if raw.passed_over:
        print(raw.passed_over, file=sys.stderr)
    return check(args, raw) if args.check else make_slices(args, raw)


def check(args: argparse.Namespace, raw: RawDataset) -> int:
    """Inspect every case, write nothing, and print one line per finding."""
    index, count = read_shard(args.shard)
    jobs = jobs_of(args, raw, None, raw.cases[index::count])
    findings = list(raw.findings)
    for finding in findings:
        print(finding)
    records = []
    for outcome in outcomes_of(args, jobs):
        for finding in outcome.findings:
            say(str(finding))
        findings += outcome.findings
        records += [outcome.record] if outcome.record else []
    for finding in duplicates(sorted(records, key=lambda record: record["case"])).values():
        print(finding)
        findings.append(finding)
    bad = sum(finding.bad for finding in findings)
    print(
        f"{len(jobs)} cases checked: {bad} errors (slicing leaves such a case out), {len(findings) - bad} notes",
        file=sys.stderr,
    )
    return 1 if findings else 0


def make_slices(args: argparse.Namespace, raw: RawDataset) -> int:
    """Slice what is not published yet, list what is good, and print the summary."""
    if args.outpath is None:
        raise ValueError("--outpath is missing: name the folder of the slice store (or only look, with --check)")
    task = args.task or ("tumor" if raw.tumor_labels else "all")
    if args.task and not raw.labels:
        raise ValueError(f"--task {args.task}: {args.dataset} scans have no labels: leave it out")
    if task == "tumor" and not raw.tumor_labels:
        names = ", ".join(raw.labels.values())
        raise ValueError(f"--task tumor: {args.dataset} has no tumor label ({names}): use --task organ or --task all")
    for finding in raw.findings:
        if finding.bad or not raw.cases:
            print(finding)
    if not raw.cases:
        what = "both image and label" if raw.labels else "a scan of this modality"
        raise ValueError(f"{args.inpath}: no case has {what}: nothing to slice")
    index, count = read_shard(args.shard)
    root = args.outpath.absolute()
    keep_apart(root, [args.inpath, *(file for case in raw.cases for file in case.files)])
    with hold_store(root, index, count):
        return fill_store(args, raw, root, task, raw.cases[index::count], count == 1)


def fill_store(
    args: argparse.Namespace, raw: RawDataset, root: Path, task: str, cases: list[RawCase], alone: bool
) -> int:
    """Slice cases into a store that is held. alone: no other shard is at work in it."""
    started = time.monotonic()
    wish = read_wish(args, raw)
    settings = settings_of(args.format, args.channel, args.spacing, args.slice_spacing)
    check_store(root, raw, args.inpath, settings)
    choose_split(wish, raw, root, args.inpath)  # refused before any work
    findings = recover(root, cases, alone)
    outcomes = {}
    for outcome in outcomes_of(args, jobs_of(args, raw, root, cases)):
        for finding in outcome.findings:
            if finding.bad:
                say(str(finding))
        findings += outcome.findings
        outcomes[outcome.case] = outcome
    recover(root, cases, alone)  # what killed workers left
    with hold_index(root):  # other shards may have split and listed cases since
        split = choose_split(wish, raw, root, args.inpath)
        records, noted = list_cases(root, raw, args.inpath, settings, outcomes)
        split_of = {patient: name for name in SPLITS for patient in split[name]}
        suffix = f".{args.format}"
        rows = [row for record in records for row in index_rows(root, record, split_of[record["patient"]], suffix)]
        rest = {"task": task, "split_sha256": split_sha256(split)}
        manifest = describe_store(raw, root, args.inpath, records, settings, **rest)
        write_catalog(root, rows, split, manifest)
    for finding in noted:
        if finding.bad:
            print(finding)
    findings += raw.findings + noted
    waiting = len({case.case for case in raw.cases} - outcomes.keys() - {record["case"] for record in records})
    summarize(root, manifest, split, records, outcomes.values(), waiting, findings, time.monotonic() - started)
    return 1 if any(finding.bad for finding in findings) else 0


def jobs_of(args: argparse.Namespace, raw: RawDataset, root: Path | None, cases: list[RawCase]) -> list[Job]:
    """What is to be done to the cases, as the flags ask for it."""
    how = (args.format, args.compress, args.channel, args.overwrite, args.spacing, args.slice_spacing)
    return [Job(case, raw, root, *how) for case in cases]


def read_wish(args: argparse.Namespace, raw: RawDataset) -> SplitWish:
    """What the flags ask of the split."""
    given, note = None, None
    if args.split_file:
        given, note = split_as_asked(args.split_file, {case.case: case.patient for case in raw.cases}, args.fold)
    elif args.fold is not None:
        raise ValueError(f"--fold {args.fold}: there is no --split_file to take it from")
    if note:
        print(note, file=sys.stderr)
    return SplitWish(args.split, args.seed, args.split_file, given, args.mode, args.overwrite)


def recover(root: Path, cases: list[RawCase], alone: bool) -> list[Finding]:
    """Bring back, or remove, what a killed run left: of all cases where no other shard is at work, else of these."""
    findings = []
    if alone:
        remove_leftovers(root)
    mine = {case.case for case in cases}
    for place in left_behind(root):
        if alone or place.name in mine:
            try:
                CASES.recover(place)
            except NotOursError as error:  # a finding for the case, once it is its turn
                findings += [] if place.name in mine else [Finding(error.path, error.what, error.remedy, bad=False)]
    return findings


def outcomes_of(args: argparse.Namespace, jobs: list[Job]) -> Iterable[Outcome]:
    """Run the cases, with a progress bar; the largest files first, so that the workers finish together."""

    def size(job: Job) -> int:
        try:
            return job.case.image.stat().st_size
        except OSError:  # a finding, once it is its turn
            return 0

    def failed(job: Job, error: Exception) -> Outcome:
        return Outcome(job.case.case, findings=[Finding(job.case.image, *explain(error))])

    largest_first = sorted(jobs, key=size, reverse=True)
    outcomes = run(slice_case, largest_first, failed, min(args.jobs or cores(), len(jobs)), args.scheduler)
    return with_bar(outcomes, len(jobs), "case", "slicing")


def summarize(
    root: Path,
    manifest: dict[str, Any],
    split: dict[str, Any],
    records: list[dict[str, Any]],
    outcomes: Collection[Outcome],
    waiting: int,
    findings: list[Finding],
    seconds: float,
) -> None:
    """Print what the store holds now, on one screen. waiting: cases of other shards that are not sliced yet."""
    slices = [(record["patient"], set(labels)) for record in records for labels in record["slices"]]
    wanted = (
        set(manifest["tumor_labels"]) if manifest["task"] == "tumor" else {int(value) for value in manifest["labels"]}
    )
    hits = sum(bool(labels & wanted) for _, labels in slices)
    counts = Counter("kept" if outcome.kept else "sliced" if outcome.record else "bad" for outcome in outcomes)
    done = f"{counts['sliced']} sliced now, {counts['kept']} kept, {counts['bad']} bad"
    done += f"; {waiting} of other shards not sliced yet" if waiting else ""
    held = Counter(value for _, labels in slices for value in labels)
    names = [f"{value} {manifest['labels'][str(value)]} {count}" for value, count in sorted(held.items())]
    names = [*names[:8], f"{len(names) - 8} more labels"] if len(names) > 8 else names or ["none"]
    shares = []
    for name in SPLITS:
        patients = set(split[name]) & {record["patient"] for record in records}
        count = sum(patient in patients for patient, _ in slices)
        shares.append(f"{name} {len(patients)} patient{'s' * (len(patients) != 1)}, {count} slices")
    notes = Counter((finding.what, finding.remedy) for finding in findings if not finding.bad)
    for (what, remedy), count in notes.items():
        file = next(finding.file for finding in findings if finding.what == what)
        print(f"note: {file}{f' and {count - 1} more' if count > 1 else ''}: {what}: {remedy}")
    task = f"task {manifest['task']}" if manifest["labels"] else "no labels"
    print(f"{manifest['dataset']}, {manifest['modality']}, {manifest['format']}, {task}")
    print(f"  cases   {len(records)} ({done})")
    print(f"  slices  {len(slices)}" + (f", {hits} of them with the task's labels" if manifest["labels"] else ""))
    if words := asked_words(manifest):
        changed = sum("stored" in read_json(root / record["case"] / "geometry.json") for record in records)
        print(f"  spacing {words}: {changed} of {len(records)} cases were resampled")
    if manifest["labels"]:
        print(f"  labels  slices with {'; '.join(names)}")
    print(f"  splits  {'; '.join(shares)}")
    print(f"  size    {sum(record['bytes'] for record in records) / 1e6:.1f} MB")
    print(f"  time    {seconds:.1f} s")
    print(f"  where   {root}")


if __name__ == "__main__":
    sys.exit(main())
