"""How a leaderboard was measured: the plan in words, what the columns say, and the plan to repeat it by."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from utils.leaderboard.plan import Plan
from utils.leaderboard.results import RULE
from utils.report.markup import details, text
from utils.report.provenance import definitions

COLUMNS = (
    ("Dice", "mean Dice over classes of a test case, mean over cases, then mean ± standard deviation over seeds."),
    (
        "Gain",
        "the student's Dice minus that of the student alone of the same seed and case, mean over both, and its 95 % "
        "interval: an analysis of variance in which seeds and cases are drawn (of one seed Student's t over cases).",
    ),
    ("Verdict", "better, worse, or no measurable difference, by the rule above."),
    (
        "Gap closed",
        "gain over the gap between the teacher's Dice and that of the student alone. Empty where that gap's interval "
        "does not lie above 0.",
    ),
    ("Ranked", "Dice of the same network's labels by RankSEG-RMA instead of the most probable ones; in no gain."),
    (
        "Weight",
        "what a method's terms together weigh early on: their gradient norm as a multiple of the task loss's.",
    ),
    (
        "ms/image",
        "of training, median: loading, teacher, student, losses, backward and optimizer. Runs side by side slow one "
        "another.",
    ),
)


def show_measured(plan: Plan) -> str:
    """Facts, columns and commands, as HTML."""
    return (
        definitions(_facts(plan))
        + f"<h3>Columns</h3>{definitions([(name, text(what)) for name, what in COLUMNS])}"
        + f"<h3>To repeat it</h3>{_repeat(plan)}"
    )


def _facts(plan: Plan) -> list[tuple[str, str]]:
    total = len(plan.students) * len(plan.methods)
    facts = [
        ("Rule", text(f"{RULE[:1].upper()}{RULE[1:]}.")),
        (
            "Fair runs",
            "Of one student and seed all runs start from the same weights, see the same batches in the same "
            "augmentation and train equally long. Checkpoints are chosen on val; test is read once a run, at its end.",
        ),
        (
            "Caution",
            f"{total} intervals of 95 %: {0.05 * total:.1f} or more would exclude zero if no method did anything. "
            "Verdicts are corrected for the number of methods, intervals are not. The headline's method is that with "
            "the best Dice on val, mean over students and seeds; whichever gains most on test is the luckiest of many, "
            "too. The teacher is one training, whose luck is in no interval.",
        ),
        ("Data", _data(Path(plan.student_config))),
        (
            "Students",
            "<br>".join(f"{text(name)}: {_code(_inline(network))}" for name, network in plan.students.items()),
        ),
        ("Flags of all students", _flags(plan.flags)),
        *((f"Flags of {name}", _flags(flags)) for name, flags in plan.student_flags.items()),
        *((f"Control {name}", _flags(flags)) for name, flags in plan.controls.items()),
        ("Teacher", _teacher(plan)),
        ("Seeds", ", ".join(map(str, plan.seeds))),
        ("Weights", _weights(plan)),
    ]
    if plan.teacher_cache_gb:
        facts.append(
            (
                "Teacher's answers",
                f"kept on disk, {plan.teacher_cache_gb:g} GB at most, and shared by all runs: ms/image counts reading "
                "them, and the teacher itself only in the runs that first asked it",
            )
        )
    return facts


def _data(recipe: Path) -> str:
    """The recipe's data section, as it stands before any flag."""
    told = f"recipe {_code(recipe)}"
    with suppress(OSError, ValueError, yaml.YAMLError):
        section = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
        told += ": " + ", ".join(_code(f"{key}: {_inline(what)}") for key, what in section.items())
    return told


def _teacher(plan: Plan) -> str:
    if plan.teacher:
        return _code(plan.teacher)
    return f"trained first, recipe {_code(plan.teacher_config)}; flags {_flags(plan.teacher_flags)}"


def _weights(plan: Plan) -> str:
    if plan.calibration is None:
        return "those of the method files"
    chosen = plan.calibration
    whose = f"runs of {text(chosen.student)} choose for all students" if chosen.student else "for each student"
    return (
        f"chosen on val, {whose}: one run a method with each of {', '.join(f'{share:g}' for share in chosen.shares)} "
        f"times the task loss's gradient norm, on seed {chosen.seed}, which is none of the seeds above; the best score "
        f"on val wins. Their further flags: {_flags(chosen.flags)}"
        + (f". As in their files: {', '.join(map(_code, plan.own_weights))}" if plan.own_weights else "")
    )


def _repeat(plan: Plan) -> str:
    values = {name: what for name, what in asdict(plan).items() if what not in ("", [], {})}
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    name = shlex.quote(f"{plan.folder.name}.yaml")
    return f"<pre>python scripts/leaderboard.py {text(name)}</pre>" + details(
        f"<code>{text(name)}</code>, the plan", f"<pre>{text(content)}</pre>"
    )


def _flags(flags: Sequence[str]) -> str:
    return " ".join(map(_code, flags)) or "none"


def _inline(what: Any) -> str:
    return yaml.safe_dump(what, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("...\n").strip()


def _code(what: object) -> str:
    return f"<code>{text(what)}</code>"
