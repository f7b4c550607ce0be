"""The flags that name a teacher, for every command that takes any."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "checkpoint": {"nargs": "+", "metavar": "RUN", "help": "run folder or checkpoint of train.py, or several"},
    "maps": {"nargs": 1, "metavar": "FOLDER", "help": "folder of files that a program left"},
    "onnx": {"nargs": 1, "metavar": "FILE", "help": "ONNX file, with --sidecar"},
    "nnunet": {
        "nargs": 1,
        "metavar": "FOLDER",
        "help": "folder of a trained configuration, such as .../nnUNetTrainer__nnUNetPlans__3d_fullres",
    },
}
FURTHER: dict[str, dict[str, Any]] = {
    "sidecar": {"type": Path, "metavar": "YAML", "help": "of --onnx: see docs/your-own-teacher.md"},
    "folds": {
        "nargs": "+",
        "default": [],
        "metavar": "N",
        "help": "of --nnunet: which ones (default: all that are trained)",
    },
    "splits_final": {
        "type": Path,
        "metavar": "JSON",
        "help": "of --nnunet: splits_final.json of its training (default: where nnU-Net keeps it)",
    },
    "no_mirror": {
        "action": "store_true",
        "help": "of --nnunet: no test-time mirroring, up to eight times as fast",
    },
    "only": {
        "nargs": "+",
        "default": [],
        "metavar": "CLASS",
        "help": "keep the maps of these classes; the rest is background",
    },
    "classes": {
        "nargs": "+",
        "default": [],
        "metavar": "NAME",
        "help": "of --maps: names of the channels or label values 1, 2, ... (default: as its dataset.json has them)",
    },
    "seen": {
        "type": Path,
        "metavar": "SPLIT_FILE",
        "help": "JSON with lists train and val of the patients that a teacher of others was trained on and chosen by",
    },
    "license": {"metavar": "TEXT", "help": "what the teacher's authors ask; it is written into the maps"},
    "allow_leak": {
        "action": "store_true",
        "help": "use a teacher that has seen val or test patients of the store, or nobody knows whom",
    },
}


def add_teacher(parser: argparse.ArgumentParser, own: str = "--checkpoint") -> None:
    """Add the flags of a teacher, of which exactly one names it. own: how one of our checkpoints is named."""
    kinds = parser.add_argument_group("the teacher (one of these)").add_mutually_exclusive_group(required=True)
    for name, how in KINDS.items():
        kinds.add_argument(own if name == "checkpoint" else f"--{name}", dest=name, type=Path, **how)
    further = parser.add_argument_group("of the teacher")
    for name, how in FURTHER.items():
        further.add_argument(f"--{name}", **how)


def kind_of(args: argparse.Namespace) -> str:
    """Which of `KINDS` the flags name."""
    return next(name for name in KINDS if getattr(args, name))


def teacher_words(args: argparse.Namespace) -> list[str]:
    """The flags of a teacher that were given, as scripts/TeachWith.py takes them."""
    words = []
    for name in (*KINDS, *FURTHER):
        value = getattr(args, name)
        if value:
            given = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, given)]
    return words


def check_teacher(args: argparse.Namespace) -> None:
    """Raises ValueError where the teacher of another program is not there, or --onnx has no --sidecar."""
    if (kind := kind_of(args)) != "checkpoint" and not (path := getattr(args, kind)[0]).exists():
        raise ValueError(f"--{kind} {path}: no such file or folder")
    if args.onnx and args.sidecar is None:
        raise ValueError(f"--onnx {path}: give --sidecar YAML, which says what the network takes and answers")


def refuse_unknown_patients(args: argparse.Namespace) -> None:
    """Raises ValueError where nobody says from whom a teacher of others has learned: training would refuse it."""
    if args.seen is None and not args.allow_leak and (kind := kind_of(args)) in ("maps", "onnx"):
        raise ValueError(
            f"--{kind} {getattr(args, kind)[0]}: whom it has learned from is not known: name them with --seen, or give "
            "--allow_leak to go on without knowing of a leak"
        )
