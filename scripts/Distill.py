"""Distills a teacher into a small student from scans that nobody labeled, in one command.

The scans are sliced, the teacher answers them, the student learns its answers, is tested on scans that it has not seen
(how well it agrees with its teacher), and is exported. Each stage is a command of this project, printed so that it can
be run by hand. The same command goes on where it was stopped: a stage is done once what it writes last is there.

  python scripts/Distill.py --teacher runs/kits19_raunet --scans raw/scans --student enet --output distilled/enet

Out: slices/ (SliceMaker.py), maps/ (TeachWith.py), student.yaml, run/ (train_kd.py), export/ (export.py)
"""

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.files import write_text
from datasets.json_files import read_json
from datasets.slices.soft_maps import MANIFEST, read_maps
from datasets.slices.store import read_index
from utils.command import check_numbers, importing_torch, make_parser, run_command

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "val", "test")  # test, too: there a student is held to its teacher, once


@dataclass(frozen=True)
class Stage:
    """A command, and whether all of what it writes is there.

    fine: the exit statuses after which the next stage can begin: some cases may be left out.
    """

    name: str
    command: list[str]
    is_done: Callable[[], bool]
    fine: tuple[int, ...] = (0,)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--teacher", required=True, nargs="+", type=Path, metavar="RUN", help="run folder of a teacher, or several")
    add("--scans", required=True, type=Path, help="folder of NIfTI files or DICOM series")
    add("--student", default="enet", help="network of the student (default: enet)")
    add("--output", required=True, type=Path, help="folder of all that is made")
    add("--epochs", type=int, help="of the student (default: by the number of slices, as Plan.py chooses them)")
    add("--seed", type=int, default=0, help="of the split and of the training (default: 0)")
    add("--jobs", type=int, help="worker processes of SliceMaker.py (default: one per core)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_command("Distill", lambda: distill(args), "stopped; the same command goes on from here")


def distill(args: argparse.Namespace) -> int:
    """Run the stages that are not done, one after the other; returns the status of one that fails, else 0."""
    check_numbers(args, epochs=1, seed=0, jobs=1)
    with importing_torch():  # --help and a wrong flag do not need it
        from networks import SEGMENTATION
        from utils.recipe.registry import check
        from utils.training import checkpoints
    check(SEGMENTATION, {"name": args.student}, "--student")
    preprocessing = checkpoints.load(args.teacher[0])["preprocessing"]
    args.output.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(stages_of(args, preprocessing), start=1):
        line = shlex.join(["python", *stage.command])
        if stage.is_done():
            print(f"{number} {stage.name}: done before: {line}", flush=True)
            continue
        print(f"{number} {stage.name}: {line}", flush=True)
        status = run_stage(stage)
        if status not in stage.fine or not stage.is_done():
            print(f"Distill: {stage.name} ended with status {status}; the same command goes on from here")
            return status or 1
    for line in summary(args):
        print(line)
    return 0


def stages_of(args: argparse.Namespace, preprocessing: dict) -> Iterator[Stage]:
    """The stages in their order, each made once those before it are done. preprocessing: the teacher's."""
    slices, maps, run, export = (args.output / name for name in ("slices", "maps", "run", "export"))
    words = ["--inpath", str(args.scans), "--outpath", str(slices), "--dataset", "unlabeled", "--seed", str(args.seed)]
    words += ["--modality", preprocessing["modality"]]
    for key in ("spacing", "slice_spacing"):
        words += [f"--{key}", f"{preprocessing[key]:g}"] if preprocessing.get(key) else []
    words += ["--jobs", str(args.jobs)] if args.jobs else []
    yield Stage("slices", ["scripts/SliceMaker.py", *words], lambda: has_cases(slices), fine=(0, 1))
    words = ["--data", str(slices), "--output", str(maps), "--splits", *SPLITS]
    words += ["--checkpoint", *map(str, args.teacher)]
    yield Stage("maps", ["scripts/TeachWith.py", *words], lambda: has_maps(slices, maps))
    recipe = args.output / "student.yaml"
    write_recipe(recipe, args, preprocessing)
    tested = (run / "test.json").is_file
    begun = ["--resume"] if any((run / name).exists() for name in ("config.yaml", "last.ckpt")) else []
    yield Stage("training", ["train_kd.py", "--config", str(recipe), *begun], lambda: tested() or is_trained(run))
    yield Stage("test", ["train_kd.py", "--config", str(recipe), "--mode", "test"], tested)
    words = ["--checkpoint", str(run), "--output", str(export), "--name", args.student]
    yield Stage("export", ["scripts/export.py", *words], (export / "README.md").is_file)


def has_cases(slices: Path) -> bool:
    """Whether the store is there, with any case that could be used."""
    return (slices / "dataset.json").is_file() and bool(read_index(slices))


def has_maps(slices: Path, maps: Path) -> bool:
    """Whether every case of the store has its maps."""
    cases = {record.case for record in read_index(slices)}
    return (maps / MANIFEST).is_file() and cases <= read_maps(maps).cases.keys()


def is_trained(run: Path) -> bool:
    """Whether the run has all its epochs."""
    from utils.training import checkpoints

    if not (run / "last.ckpt").is_file():
        return False
    last = checkpoints.load(run / "last.ckpt")
    return last["epoch"] >= last["recipe"]["training"]["epochs"]


def write_recipe(file: Path, args: argparse.Namespace, preprocessing: dict) -> None:
    """Write the student's recipe. Raises ValueError where another one is there, from other flags or other hands."""
    from utils.planning.unlabeled import recipe_without_labels

    places = (args.output / name for name in ("slices", "maps", "run"))
    recipe = recipe_without_labels(*places, preprocessing, args.student, args.seed, args.epochs)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{file}: is of other flags, or was changed: give those flags again, or another --output")
    write_text(file, text)


def run_stage(stage: Stage) -> int:
    """Run the command of a stage in a process of its own; what stops this one stops that one first."""
    process = subprocess.Popen([sys.executable, str(ROOT / stage.command[0]), *stage.command[1:]])

    def stop(*_: object) -> None:
        process.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches both
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def summary(args: argparse.Namespace) -> list[str]:
    """What came of it, on one screen."""
    tested = read_json(args.output / "run/test.json")
    export = args.output / "export"
    description = read_json(export / "student.json")
    agreement = ", ".join(
        f"{name.removeprefix('agreement/dice').lstrip('/') or 'mean'} {value:.3f}"
        for name, value in tested["scores"].items()
        if name.startswith("agreement/dice")
    )
    lines = [
        "",
        f"student    {args.student}, {description['parameters'] / 1e6:.2f} M parameters",
        f"agreement  Dice with its teacher on {tested['cases']} scans that training did not see: {agreement}",
        f"labels     {tested['labels']}",
    ]
    for name, facts in description["files"].items():
        lines.append(f"  {facts['bytes'] / 1e6:7.2f} MB  {export / name}")
    return [*lines, f"next       python scripts/predict.py --checkpoint {export} --input FOLDER --output FOLDER"]


if __name__ == "__main__":
    sys.exit(main())
