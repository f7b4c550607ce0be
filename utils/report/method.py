"""How everything on the page was measured, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from utils.evaluation.volumes.scores import DEFINITIONS, EMPTY_MASK_RULES
from utils.report.markup import text
from utils.report.provenance import definitions
from utils.runs.groups import Group

DICE_FACTS = (
    (
        "Dice",
        "2 |prediction and target| / (|prediction| + |target|) of a whole case, all slices, per class; then the "
        "mean over cases, and over classes (mean Dice).",
    ),
    (
        "95 % interval",
        "of a mean over test cases: Student's t, the seeds of a recipe averaged first. It tells the spread of "
        "cases, not of training again.",
    ),
    (
        "Gain",
        "distilled minus the same network trained alone, paired case by case. It counts when the interval excludes "
        "zero and every seed agrees in sign; otherwise there is no measurable difference.",
    ),
)
CLASS_FACTS = (
    ("Accuracy", "share of test images whose most probable class is the target; balanced: mean recall of the classes."),
    ("AUROC", "area under the ROC curve, one class against the rest, mean over classes."),
    ("95 % interval", "bootstrap over test images with the trained networks fixed; seeds of a recipe are averaged."),
    (
        "Gain",
        "distilled minus the same network trained alone on the same resampled images. It counts when the interval "
        "excludes zero and every seed agrees in sign; otherwise there is no measurable difference.",
    ),
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
        "program and the weights is not in it. Read + write alone is the floor.",
    ),
    ("Memory", "the highest resident memory of that process, Python and PyTorch included."),
)
ATTENTION_FACT = (
    "Attention",
    "Grad-CAM (Selvaraju et al. 2017; MONAI's) of the deepest feature map: the gradient of the class's mean logit over "
    "the pixels predicted as it. Each map is scaled to its own maximum, so colors tell where, not how much. What skip "
    "connections carry past that map does not show.",
)


def show_method(
    groups: Sequence[Group], machine: Mapping[str, str], date: str, command: Sequence[str], timed: str, attention: bool
) -> str:
    """Definitions, machine, date and commands. timed: what was timed and how often, empty for nothing."""
    first = groups[0].first
    kind = "Empty classes" if first.classifies else "Empty masks"
    facts = [
        *(CLASS_FACTS if first.classifies else DICE_FACTS),
        (kind, f"{first.rule}."),
    ]
    if any(run.surfaces for group in groups for run in group.runs):
        facts += [(key, f"{value}.") for key, value in DEFINITIONS.items()]
        facts += [(f"{key}, empty masks", f"{value}.") for key, value in EMPTY_MASK_RULES.items() if key != "dice"]
    facts += [*COMMON_FACTS, *(TIME_FACTS if timed else ()), *([ATTENTION_FACT] if attention else [])]
    if timed:
        facts.append(("Timed volume", timed))
    told = definitions([(name, text(value)) for name, value in facts])
    here = definitions([("Date", text(date)), *((name, text(value)) for name, value in machine.items())])
    lines = ["# this page", f"python {shlex.join(command)}"]
    if not first.classifies:
        lines += ["", "# surface distances and lesions of a run, shown here once they are there"]
        lines.append(f"python scripts/evaluate.py --checkpoint {shlex.quote(str(first.folder))} --split test")
    lines += ["", "# a run again, from its recipe"]
    for group in groups:
        for run in group.runs:
            script = "train_kd.py" if group.role == "distilled" else "train.py"
            lines.append(
                f"python {script} --config {shlex.quote(str(run.folder / 'config.yaml'))} --mode both --output FOLDER"
            )
    return f'{told}<h3>Machine</h3>{here}<h3>Commands</h3><pre class="commands">{text(chr(10).join(lines))}</pre>'
