"""What was trained on what, how everything on the page was measured, and the commands that make it again."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from datasets.slices.resampling import asked_words
from datasets.slices.store import read_index
from utils.evaluation.statistics import INTERVAL, RULE
from utils.evaluation.volumes.scores import DEFINITIONS, EMPTY_MASK_RULES
from utils.machine import processor
from utils.report.exports import TIMES
from utils.report.facts import Report
from utils.runs.groups import Group
from utils.runs.run import Run

Facts = list[tuple[str, str]]
GAIN = (
    "Gain",
    f"distilled minus the same network trained alone, paired case by case. {RULE[0].upper()}{RULE[1:]}; "
    "otherwise there is no measurable difference.",
)
DICE_FACTS = (
    (
        "Dice",
        "2 |prediction and target| / (|prediction| + |target|) of a whole case, all slices, per class; then the "
        "mean over cases, and over classes (mean Dice).",
    ),
    ("95 % interval", f"{INTERVAL}."),
    GAIN,
)
CLASS_FACTS = (
    ("Accuracy", "share of test images whose most probable class is the target; balanced: mean recall of the classes."),
    ("AUROC", "area under the ROC curve, one class against the rest, mean over classes."),
    ("95 % interval", f"{INTERVAL}."),
    GAIN,
)
COMMON_FACTS = (
    (
        "Selection",
        "checkpoints were chosen on val while training. The student that pictures are shown of is the distilled "
        "one with the best val score; test scores chose nothing but the order of its cases (worst, median, best).",
    ),
    (
        "Parameters, GMACs",
        "learned numbers; multiply-accumulates (half the FLOPs of convolutions and matrix products) of one image "
        "at the size in the table.",
    ),
)
TIME_FACTS = (
    (
        "Seconds",
        "scripts/predict.py in a process of its own for each run, in turn, medians of the repeats: read (and "
        "unpack) the volume, preprocess slices, network, postprocess labels, write (and pack) them. Loading the "
        "program and the weights is not counted. Read + write alone is the floor.",
    ),
    ("Memory", "the highest resident memory of that process, Python and PyTorch included."),
)
ATTENTION_FACT = (
    "Attention",
    "Grad-CAM (Selvaraju et al. 2017; MONAI's) of the deepest feature map: the gradient of the class's mean logit over "
    "the pixels predicted as it. Each map is scaled to its own maximum, so colors show where, not how much. What skip "
    "connections carry past that map does not show.",
)


def data_facts(groups: Sequence[Group]) -> Facts:
    """Where the data lay, and what networks were given."""
    run = groups[0].first
    preprocessing = run.checkpoint["preprocessing"]
    if run.classifies:
        images = f"{preprocessing['image_size']}{TIMES}{preprocessing['image_size']}"
    else:
        window = preprocessing["window"]
        scaled = f"window {window[0]:g} to {window[1]:g} HU" if window else "z-score of each case"
        images = f"{preprocessing['modality']}, {scaled}"
        spacings: dict[str, list[str]] = {}
        for group in groups:
            spacings.setdefault(asked_words(group.first.checkpoint["preprocessing"]), []).append(group.name)
        for words, names in spacings.items():
            whose = f" ({', '.join(names)})" if len(spacings) > 1 else ""
            images += f"; resampled to {words}{whose}" if words else f"; not resampled{whose}" if whose else ""
        if any(spacings):
            images += ": val scores are on the grid of the slices, test scores on the grids of the sources"
    split = f"{run.split_sha256[:16]} (SHA-256), the same for all runs"
    places = ", ".join(dict.fromkeys(group.first.data for group in groups))
    return [("Data", places), ("Classes", ", ".join(run.class_names)), ("Images", images), ("Split", split)]


def split_rows(run: Run, root: str | None) -> list[tuple[str, ...]]:
    """Each split with its patients and, where the slice store is there, its cases and slices."""
    index = None
    if not run.classifies:
        with suppress(ValueError, OSError):  # where it is gone, only the checkpoint's patients are known
            index = read_index(Path(root or run.data))
    rows = []
    for split in ("train", "val", "test"):
        patients = run.checkpoint["split"].get(split)  # converted weights have no patients
        row = [split, "not known" if patients is None else str(len(patients))]
        if index is not None:
            records = [record for record in index if record.split == split]
            row += [str(len({record.case for record in records})), str(len(records))]
        rows.append(tuple(row))
    return rows


def definitions(report: Report) -> Facts:
    """What every figure on the page means."""
    first = report.first
    facts = [
        *(CLASS_FACTS if first.classifies else DICE_FACTS),
        ("Empty classes" if first.classifies else "Empty masks", f"{first.rule}."),
    ]
    if any(run.surfaces for group in report.groups for run in group.runs):
        facts += [(key, f"{value}.") for key, value in DEFINITIONS.items()]
        facts += [(f"{key}, empty masks", f"{value}.") for key, value in EMPTY_MASK_RULES.items() if key != "dice"]
    facts += COMMON_FACTS
    if report.timed_what:
        facts += TIME_FACTS
    if report.wanted.cases:
        facts.append(ATTENTION_FACT)
    if report.timed_what:
        facts.append(("Timed volume", report.timed_what))
    return facts


def machine(date: str) -> Facts:
    """When and where it was measured, and the versions that matter."""
    found = [
        ("Date", date),
        ("CPU", _processor()),
        ("threads", str(torch.get_num_threads())),
        ("PyTorch", torch.__version__),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
    ]
    return [*found, *([("GPU", torch.cuda.get_device_name())] if torch.cuda.is_available() else [])]


def _processor() -> str:
    """The CPU's model, and whether it computes in bf16."""
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return f"{processor()} ({'with' if has_bf16 else 'without'} bf16 instructions)"


def commands(report: Report) -> Sequence[str]:
    """Lines of a shell: this page, surface distances, and each run again."""
    first = report.first
    lines = ["# this page", f"python {shlex.join(report.wanted.command)}"]
    if not first.classifies:
        lines += ["", "# surface distances and lesions of a run, shown here once they are there"]
        lines.append(f"python scripts/evaluate.py --checkpoint {shlex.quote(str(first.folder))} --split test")
    lines += ["", "# a run again, from its recipe"]
    for group in report.groups:
        script = "train_kd.py" if group.role == "distilled" else "train.py"
        for run in group.runs:
            recipe = shlex.quote(str(run.folder / "config.yaml"))
            lines.append(f"python {script} --config {recipe} --mode both --output FOLDER")
    return lines
