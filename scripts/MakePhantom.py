"""Makes a seeded CT phantom of the abdomen in the KiTS or LiTS layout, ready for SliceMaker.py."""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.files import alone_in, keep_apart
from datasets.findings import Finding
from datasets.phantom.drawing import draw_phantom
from datasets.phantom.files import (
    case_number,
    check_output,
    kits_record,
    render_label_file,
    update_kits_json,
    write_kits_case,
    write_lits_case,
)
from datasets.scan import scan
from datasets.slices.store import write_json
from datasets.splits import split_patients
from datasets.volumes.layouts.cases import repeated
from datasets.volumes.layouts.kits import LABEL, case_folders, case_name
from utils.command import run_command
from utils.machine import cores
from utils.workers import explain, run

EXAMPLES = """examples:
  python scripts/MakePhantom.py --outpath raw/phantom --cases 16
      16 drawn cases, 32 slices of 128 x 128, labels 1 kidney and 2 tumor
  python scripts/MakePhantom.py --outpath raw/phantom_lits --layout lits --cases 20
      labels 1 liver and 2 liver tumor, one case in ten without tumor
  python scripts/MakePhantom.py --outpath raw/phantom_kits --labels KITS19/data --size 160 --slice_spacing 5
      a CT around every real KiTS label volume in KITS19/data/case_*/segmentation.nii.gz
  python scripts/MakePhantom.py --outpath raw/phantom_kits --labels KITS19/data --size 160 --repeats 4
      the same, and every training label three times more with other tissue

The same seed gives the same files, bit for bit, whatever --jobs and --cases are. Next: scripts/SliceMaker.py."""


@dataclass(frozen=True)
class Job:
    """One case to make; `label` is the label file it is made around, None for a drawn one."""

    number: int
    name: str
    label: Path | None
    outpath: Path
    layout: str
    classes: str
    seed: int
    size: int | None
    slices: int
    every: int
    slice_spacing: float | None
    tumor_free: float


@dataclass
class Outcome:
    """What became of a case: its kits.json record, shape, and the volumes (ml) of its labels, or an error."""

    name: str
    record: dict | None = None
    shape: tuple[int, ...] = ()
    milliliters: tuple[float, ...] = ()
    error: str = ""


def make(job: Job) -> Outcome:
    """Renders and writes one case. Whatever is wrong with a case is its outcome's error: the others go on."""
    try:
        header = None
        if job.label is not None:
            phantom, header = render_label_file(
                job.label, job.seed, job.classes, job.size, job.every, job.slice_spacing
            )
        else:
            organ = "liver" if job.layout == "lits" else "kidney"
            size = job.size or 128
            phantom = draw_phantom(job.seed, job.number, job.slices, size, organ, job.classes, job.tumor_free)
        if job.layout == "lits":
            write_lits_case(job.outpath, job.number, phantom)
        else:
            write_kits_case(job.outpath, job.name, phantom, header)
    except Exception as error:  # a damaged file can raise anything, from nibabel, gzip or zlib
        return Outcome(job.name, error=f"{type(error).__name__}: {error}")
    counts = np.bincount(phantom.label.ravel(), minlength=4)[1:]
    milliliters = tuple(float(count) * float(np.prod(phantom.spacing)) / 1000 for count in counts)
    return Outcome(job.name, kits_record(job.name, phantom), phantom.image.shape, milliliters)


def find_labels(root: Path) -> tuple[list[Path], list[Finding]]:
    """The KiTS label files below a folder, in order, and what keeps others out; prints what was passed over."""
    found = scan(root)
    folders, findings = case_folders(found)
    labels = []
    for folder, files in folders.items():
        findings += repeated(files[LABEL])
        if not files[LABEL]:
            found.pass_over(folder, "missing label")
        elif len(files[LABEL]) == 1 and files[LABEL][0] not in found.unusable:
            labels += files[LABEL]
    findings = [*found.findings, *findings]
    for line in (*findings, *([found.summary] if found.summary else [])):
        print(line, file=sys.stderr)
    if not labels:
        raise ValueError(f"{root} holds no case_*/segmentation.nii.gz: give the folder of the cases")
    return sorted(labels, key=lambda label: case_name(label.parent)), findings


def plan(arguments: argparse.Namespace, labels: list[Path]) -> list[Job]:
    """The cases to make, in order. Raises ValueError where the arguments do not fit together."""
    if arguments.labels is not None:
        if arguments.layout != "kits":
            raise ValueError("--labels renders around KiTS labels: leave out --layout lits")
        sources = [(0, case_name(path.parent), path) for path in labels[: arguments.cases]]
    else:
        count = 16 if arguments.cases is None else arguments.cases
        name = "volume-{}" if arguments.layout == "lits" else "case_{:05d}"
        sources = [(number, name.format(number), None) for number in range(count)]
    tumor_free = arguments.tumor_free
    if tumor_free is None:
        tumor_free = 0.1 if arguments.layout == "lits" else 0.0
    shared = (arguments.outpath, arguments.layout, arguments.classes, arguments.seed, arguments.size, arguments.slices)
    rest = (arguments.every, arguments.slice_spacing, tumor_free)
    return [Job(*source, *shared, *rest) for source in sources]


def rerender(jobs: list[Job], repeats: int, ratios: list[float], seed: int) -> tuple[list[Job], dict[str, list[str]]]:
    """Adds `repeats` - 1 renderings of each training label, with other tissue; returns the jobs and the split.

    A rendering is named 1000 higher than the one before. All renderings of one label are in one split, so that no shape
    is trained on and tested. Raises ValueError for labels numbered from 1000 on.
    """
    high = [job.name for job in jobs if case_number(job.name) >= 1000]
    if high:
        raise ValueError(f"--repeats names renderings from case_01000 on, and there is a label {high[0]}: rename it")
    split = split_patients([job.name for job in jobs], ratios, seed)
    training = [job for job in jobs if job.name in split["train"]]
    for repeat in range(1, repeats):
        for job in training:
            name = f"case_{case_number(job.name) + 1000 * repeat:05d}"
            jobs.append(replace(job, name=name, seed=job.seed + repeat))
            split["train"].append(name)
    return jobs, split


def run_jobs(jobs: list[Job], processes: int) -> Iterator[Outcome]:
    """Make the cases in `processes` processes, with a progress bar; yields each as it is finished."""

    def failed(job: Job, error: Exception) -> Outcome:
        return Outcome(job.name, error=": ".join(explain(error)))

    return tqdm(run(make, jobs, failed, processes), total=len(jobs), unit="case", desc="phantom")


def summarize(outcomes: list[Outcome], arguments: argparse.Namespace, seconds: float) -> str:
    """One screen: how many cases, their size and the volumes of their labels, what failed, what to do next."""
    good = [outcome for outcome in outcomes if not outcome.error]
    lines = [f"{len(good)} of {len(outcomes)} cases in {seconds:.1f} s -> {arguments.outpath}"]
    if good:
        shapes = np.array([outcome.shape for outcome in good])
        low, high = shapes.min(0), shapes.max(0)
        shape = " x ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True))
        names = ("liver", "tumor") if arguments.layout == "lits" else ("kidney", "tumor", "cyst")
        volumes = np.array([outcome.milliliters for outcome in good])
        lines.append(f"  array {shape}, int16 HU and uint8 labels, {arguments.layout} layout, seed {arguments.seed}")
        for index, name in enumerate(names):
            held = volumes[:, index][volumes[:, index] > 0]
            if len(held):
                spread = f"median {np.median(held):.0f} ml ({held.min():.1f} to {held.max():.0f})"
                lines.append(f"  label {index + 1} {name:<7} in {len(held)} cases, {spread}")
        task = f"--dataset {arguments.layout} --task tumor"
        if arguments.repeats > 1:  # renderings of one label must not be dealt apart
            task += f" --split_file {arguments.outpath / 'split.json'}"
        lines.append(f"next: python scripts/SliceMaker.py --inpath {arguments.outpath} --outpath SLICES {task}")
    lines += [f"bad: {outcome.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--outpath", "--out_path", type=Path, required=True, help="folder to write to")
    add("--layout", choices=("kits", "lits"), default="kits", help="kits: case_NNNNN/*.nii.gz; lits: volume-N.nii")
    add("--cases", type=_positive, help="how many cases (default 16; with --labels: all)")
    add("--size", type=_positive, help="rows and columns (default 128; with --labels: those of the label file)")
    add("--slices", type=_positive, default=32, help="slices of a drawn case (default 32)")
    add("--seed", type=int, default=0, help="default 0")
    add("--jobs", type=_positive, default=cores(), help="processes (default: one per core)")
    add("--labels", type=Path, metavar="DIR", help="render around the KiTS labels DIR/case_*/segmentation.nii.gz")
    add("--repeats", type=_positive, default=1, help="with --labels: renderings of each training label (default 1)")
    add(
        "--split",
        type=float,
        nargs=3,
        default=[0.7, 0.1, 0.2],
        metavar=("TRAIN", "VAL", "TEST"),
        help="with --repeats: shares of the labels; written to OUTPATH/split.json for SliceMaker.py --split_file",
    )
    thinning = parser.add_mutually_exclusive_group()
    thinning.add_argument("--every", type=_positive, default=1, help="with --labels: merge so many slices into one")
    thinning.add_argument("--slice_spacing", type=float, metavar="MM", help="with --labels: merge slices to about MM")
    add("--classes", choices=("kits19", "kits23"), default="kits19", help="cysts are kidney (kits19) or 3 (kits23)")
    add("--tumor_free", type=float, metavar="FRACTION", help="cases without tumor (default: kits 0, lits 0.1)")
    arguments = parser.parse_args(argv)
    if arguments.tumor_free is not None and not 0 <= arguments.tumor_free <= 1:
        parser.error(f"--tumor_free {arguments.tumor_free} is not a fraction: give 0 to 1")
    if arguments.slice_spacing is not None and not arguments.slice_spacing > 0:
        parser.error(f"--slice_spacing {arguments.slice_spacing} is not a distance: give millimeters above 0")
    if arguments.repeats > 1 and arguments.labels is None:
        parser.error("--repeats renders label volumes again: give --labels, or more --cases")
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed} is negative: give 0 or more")
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_command("MakePhantom", lambda: make_phantom(arguments), "interrupted; run it again")


def make_phantom(arguments: argparse.Namespace) -> int:
    """Makes the phantom; 0 when every case was made, 1 otherwise."""
    labels, findings = ([], []) if arguments.labels is None else find_labels(arguments.labels)
    jobs, split = plan(arguments, labels), None
    if arguments.repeats > 1:
        jobs, split = rerender(jobs, arguments.repeats, arguments.split, arguments.seed)
    if arguments.labels is not None:
        keep_apart(arguments.outpath, [arguments.labels, *labels])
    start, outcomes = time.time(), []
    with alone_in(arguments.outpath):
        check_output(arguments.outpath, arguments.layout, split)
        if split is not None:
            write_json(arguments.outpath / "split.json", split)
        for outcome in run_jobs(jobs, min(arguments.jobs, len(jobs))):
            outcomes.append(outcome)
            if arguments.layout == "kits" and outcome.record:
                update_kits_json(arguments.outpath, [outcome.record])
    outcomes.sort(key=lambda outcome: outcome.name)
    print(summarize(outcomes, arguments, time.time() - start))
    return int(any(outcome.error for outcome in outcomes) or any(finding.bad for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
