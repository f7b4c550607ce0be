"""Slice CT and MR volumes into the store that training reads: one file per axial slice, an index, a split by patient.

Every case is checked; bad ones are reported and left out, the rest finish, and the exit code is then 1. A case is
published whole or not at all, and a second run continues where the first stopped: a case is sliced again only when the
size or modification time of its files, or the settings, changed.

  python scripts/SliceMaker.py --inpath raw/kits19 --outpath data/kits19 --dataset kits --task tumor
  python scripts/SliceMaker.py --inpath raw/kits19 --dataset kits --check

See data/README.md for the layouts that go in and the store that comes out.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.findings import Finding
from datasets.layouts import LAYOUTS, RawDataset, find_cases
from datasets.slicing import Job, Outcome, duplicates, rebuild_index, remove_partial, slice_case
from datasets.splits import SPLITS, read_split, split_as_asked, split_patients, split_sha256
from datasets.store import read_manifest, write_json
from utils.command import run_command

DEFAULT_RATIOS = (0.7, 0.1, 0.2)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    add("--check", action="store_true", help="only inspect: print `file: what: remedy`, exit 1 if a line was printed")
    add("--jobs", "--process_num", type=int, help="worker processes (default: one per core)")
    add(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="every N-th case from the I-th on (0 <= I < N): array jobs",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler (tcp://host:8786) to run the cases on",
    )
    add("--overwrite", action="store_true", help="slice cases again that are published, and allow another split")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; the same command continues where it stopped"
    return run_command("SliceMaker", lambda: slice_or_check(args), interrupted)


def slice_or_check(args: argparse.Namespace) -> int:
    """Find the cases, then look at them or slice them."""
    raw = find_cases(args.dataset, args.inpath, args.channel)
    if raw.passed_over:
        print(raw.passed_over, file=sys.stderr)
    return check(args, raw) if args.check else make_slices(args, raw)


def check(args: argparse.Namespace, raw: RawDataset) -> int:
    """Inspect every case, write nothing, and print one line per finding."""
    jobs = [Job(case, raw, None, args.format, channel=args.channel) for case in shard(raw.cases, args.shard)]
    findings = list(raw.findings)
    for finding in findings:
        print(finding)
    records = []
    for outcome in progress(run(jobs, args), len(jobs)):
        for finding in outcome.findings:
            tqdm.write(str(finding))
        findings += outcome.findings
        records += [outcome.record] if outcome.record else []
    for finding in duplicates(sorted(records, key=lambda record: record["case"])):
        print(finding)
        findings.append(finding)
    bad = sum(finding.bad for finding in findings)
    print(
        f"{len(jobs)} cases inspected: {bad} findings keep a case out of the store, {len(findings) - bad} do not",
        file=sys.stderr,
    )
    return 1 if findings else 0


def make_slices(args: argparse.Namespace, raw: RawDataset) -> int:
    """Slice what is not published yet, rebuild the index, and print the summary."""
    started = time.monotonic()
    if args.outpath is None:
        raise ValueError("--outpath is missing: name the folder of the slice store (or only look, with --check)")
    task = args.task or ("tumor" if raw.tumor_labels else "all")
    if task == "tumor" and not raw.tumor_labels:
        names = ", ".join(raw.labels.values())
        raise ValueError(f"--task tumor: {args.dataset} has no tumor label ({names}): use --task organ or --task all")
    findings = list(raw.findings)
    for finding in findings:
        if finding.bad or not raw.cases:
            print(finding)
    if not raw.cases:
        raise ValueError(f"{args.inpath}: no case has both image and label: nothing to slice")
    root = args.outpath.absolute()
    root.mkdir(parents=True, exist_ok=True)
    check_store(root, args.dataset, args.format, raw)
    cases = shard(raw.cases, args.shard)
    split = choose_split(args, raw, root)
    write_json(root / "split.json", split)
    jobs = [Job(case, raw, root, args.format, args.compress, args.channel, args.overwrite) for case in cases]
    counts = Counter()
    for outcome in progress(run(jobs, args), len(jobs)):
        for finding in outcome.findings:
            if finding.bad:
                tqdm.write(str(finding))
        findings += outcome.findings
        counts["kept" if outcome.kept else "sliced" if outcome.record else "bad"] += 1
    remove_partial(root, cases)
    records, repeated = rebuild_index(root, split, f".{args.format}")
    for finding in repeated:
        print(finding)
    findings += repeated
    present = {int(value) for record in records for value in record["voxels"]}
    cyst_free = args.dataset == "kits" and 3 not in present  # KiTS19 knows no cysts
    labels = {str(value): name for value, name in raw.labels.items() if not (cyst_free and value == 3)}
    manifest = {
        "dataset": args.dataset,
        "modality": raw.modality,
        "format": args.format,
        "task": task,
        "labels": labels,
        "tumor_labels": raw.tumor_labels,
        "split_sha256": split_sha256(split),
    }
    write_json(root / "dataset.json", manifest)
    summarize(root, manifest, split, records, counts, findings, time.monotonic() - started)
    return 1 if any(finding.bad for finding in findings) else 0


def check_store(root: Path, dataset: str, file_format: str, raw: RawDataset) -> None:
    """Raise ValueError when OUT holds something these slices cannot be added to."""
    if not (root / "dataset.json").is_file():
        return
    manifest = read_manifest(root)
    for key, value in (("dataset", dataset), ("format", file_format), ("modality", raw.modality)):
        if manifest.get(key) != value:
            raise ValueError(
                f"{root} holds {key} {manifest.get(key)}, not {value}: choose another --outpath or empty it"
            )


def choose_split(args: argparse.Namespace, raw: RawDataset, root: Path) -> dict[str, Any]:
    """Who is in which split: as the flags say, and otherwise as in OUT already, with new patients dealt in."""
    patients = sorted({case.patient for case in raw.cases})
    file = root / "split.json"
    existing = read_split(file) if file.is_file() else {name: [] for name in SPLITS}
    before = {patient: name for name in SPLITS for patient in existing[name]}
    if args.overwrite:
        existing = {name: [patient for patient in existing[name] if patient not in patients] for name in SPLITS}
    ratios, seed = args.split or DEFAULT_RATIOS, args.seed or 0
    if args.fold is not None and not args.split_file:
        raise ValueError(f"--fold {args.fold}: there is no --split_file to take it from")
    if args.split_file:
        patient_of = {case.case: case.patient for case in raw.cases}
        (split, note), ratios, seed = split_as_asked(args.split_file, patient_of, args.fold), None, None
        if note:
            print(note, file=sys.stderr)
        absent = sorted({*patients, *before} - {patient for name in SPLITS for patient in split[name]})
        if absent:
            raise ValueError(f"{args.split_file}: {len(absent)} patients are in no list, such as {absent[0]}: add them")
    elif args.mode != "all":
        split, ratios, seed = {**existing, args.mode: sorted({*existing[args.mode], *patients})}, None, None
    elif args.split or args.seed is not None or not file.is_file() or args.overwrite:
        split = split_patients({*patients, *before}, ratios, seed)
    else:
        split = split_patients(patients, ratios, seed, existing)
    if not args.overwrite:
        moved = sorted(patient for name in SPLITS for patient in split[name] if before.get(patient, name) != name)
        if moved:
            raise ValueError(
                f"{file} splits the patients otherwise ({moved[0]} is in {before[moved[0]]}): what was trained on it "
                "may have seen the new test patients; choose another --outpath, or pass --overwrite"
            )
    return {"seed": seed, "ratios": None if ratios is None else list(ratios), **split}


def shard(cases: list, which: str) -> list:
    """Every N-th case from the I-th on."""
    try:
        index, count = (int(part) for part in which.split("/"))
        if not 0 <= index < count:
            raise ValueError
    except ValueError:
        raise ValueError(f"--shard {which}: give I/N with 0 <= I < N, such as 0/4") from None
    return cases[index::count]


def progress(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    return tqdm(outcomes, total=total, unit="case", desc="slicing", disable=None)  # None: only on a terminal


def run(jobs: list[Job], args: argparse.Namespace) -> Iterator[Outcome]:
    """Run the cases where the flags say, the largest files first so that the workers finish together."""
    jobs = sorted(jobs, key=lambda job: -job.case.image.stat().st_size)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(args.jobs or cores, len(jobs))
    if args.scheduler:
        yield from run_on_dask(jobs, args.scheduler)
    elif workers <= 1:
        yield from map(slice_case, jobs)
    else:
        yield from run_in_processes(jobs, workers)


def run_in_processes(jobs: list[Job], workers: int, work: Callable[[Job], Outcome] = slice_case) -> Iterator[Outcome]:
    """Run the cases in worker processes. A killed worker breaks the pool: what is left then runs one case at a time, in
    a process of its own each, so that only the case that kills it is lost."""
    context, left = get_context("spawn"), []
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    left.append(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for job in left:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(work, job).result()
            except BrokenProcessPool:
                what = "its worker was killed (out of memory?)"
                finding = Finding(job.case.image, what, "free memory, or use a machine with more")
                yield Outcome(job.case.case, findings=[finding])


def run_on_dask(jobs: list[Job], address: str) -> Iterator[Outcome]:
    """Run the cases on the workers of a Dask scheduler; they see IN, OUT and this project under the same paths."""
    try:
        from dask.distributed import Client, as_completed
    except ImportError:
        raise ValueError(f"--scheduler {address}: Dask is not installed: pip install distributed") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--scheduler {address}: no scheduler answers ({error}): start it with `dask scheduler`"
        ) from None
    with client:
        client.run(lambda path: sys.path.insert(0, path), str(Path(__file__).resolve().parents[1]))
        for future in as_completed(client.map(slice_case, jobs, pure=False)):
            yield future.result()


def summarize(
    root: Path,
    manifest: dict[str, Any],
    split: dict[str, Any],
    records: list[dict[str, Any]],
    counts: Counter,
    findings: list[Finding],
    seconds: float,
) -> None:
    """Print what the store holds now, on one screen."""
    slices = [(record["patient"], set(labels)) for record in records for labels in record["slices"]]
    wanted = (
        set(manifest["tumor_labels"]) if manifest["task"] == "tumor" else {int(value) for value in manifest["labels"]}
    )
    hits = sum(bool(labels & wanted) for _, labels in slices)
    done = f"{counts['sliced']} sliced now, {counts['kept']} kept, {counts['bad']} bad"
    held = Counter(value for _, labels in slices for value in labels)
    names = [f"{value} {manifest['labels'][str(value)]} {count}" for value, count in sorted(held.items())]
    names = [*names[:8], f"{len(names) - 8} more labels"] if len(names) > 8 else names or ["none"]
    shares = []
    for name in SPLITS:
        patients = set(split[name]) & {record["patient"] for record in records}
        shares.append(f"{name} {len(patients)} patients, {sum(patient in patients for patient, _ in slices)} slices")
    notes = Counter((finding.what, finding.remedy) for finding in findings if not finding.bad)
    for (what, remedy), count in notes.items():
        file = next(finding.file for finding in findings if finding.what == what)
        print(f"note: {file}{f' and {count - 1} more' if count > 1 else ''}: {what}: {remedy}")
    print(f"{manifest['dataset']}, {manifest['modality']}, {manifest['format']}, task {manifest['task']}")
    print(f"  cases   {len(records)} ({done})")
    print(f"  slices  {len(slices)}, {hits} of them with the task's labels")
    print(f"  labels  slices with {'; '.join(names)}")
    print(f"  splits  {'; '.join(shares)}")
    print(f"  size    {sum(record['bytes'] for record in records) / 1e6:.1f} MB")
    print(f"  time    {seconds:.1f} s")
    print(f"  where   {root}")


if __name__ == "__main__":
    sys.exit(main())
