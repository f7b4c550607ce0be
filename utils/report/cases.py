"""The worst, a median and the best test case: image, target, what each network answers and where it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datasets.slices.store import read_slice
from utils.evaluation import drawing
from utils.evaluation.drawing import CLASS_SHADES, FALSE_ALARM, MISSED, OTHER_CLASS, OUTLINE, css
from utils.report.markup import figure, legend, picture, swatch, text
from utils.runs.groups import Group
from utils.runs.run import Run
from utils.runs.splits import open_split, predict_cases

PORTRAIT, LANDSCAPE, PORTRAIT_RATIO = 280, 370, 1.15  # pixels of two pictures side by side at least


@dataclass(frozen=True)
class Shown:
    """One slice of a case: image and target (H, W), a prediction of each group by name."""

    case: str
    place: str
    number: int
    slices: int
    image: NDArray
    limits: tuple[float, float]
    target: NDArray[np.uint8]
    predictions: dict[str, NDArray[np.uint8]]
    spacing: tuple[float, float]

    @property
    def frame(self) -> drawing.Frame:
        """About the target and every prediction."""
        foreground = (self.target > 0) | np.any([each > 0 for each in self.predictions.values()], axis=0)
        return drawing.frame_of(foreground, self.spacing)

    @property
    def gray(self) -> drawing.Pixels:
        return drawing.gray(self.image, *self.limits, self.frame)


def choose_cases(run: Run, count: int) -> list[tuple[str, str]]:
    """(case, its place) from the worst to the best mean Dice of a run, evenly over the ranks."""
    dice: dict[str, list[float]] = {}
    for row in run.rows:
        dice.setdefault(row["case"], []).append(row["dice"])
    ranked = sorted(dice, key=lambda case: (np.mean(dice[case]), case))
    last = len(ranked) - 1
    ranks = sorted({round(rank) for rank in np.linspace(0, last, min(count, len(ranked)))})
    words = {last // 2: "Median case", (last + 1) // 2: "Median case"}
    words |= {last: "Best case", 0: "Worst case"}
    if count % 2 == 0:
        words = {rank: words[rank] for rank in (0, last)}
    return [(ranked[rank], words.get(rank, f"Case {rank + 1} of {last + 1} by Dice")) for rank in ranks]


def open_cases(run: Run, split: str, root: str | None) -> Dataset:
    """The run's own dataset of a split, its slices read when they are asked for.

    Raises ValueError when it is not there, or is not the data the run was scored on.
    """
    checkpoint = run.checkpoint
    recipe = checkpoint["recipe"] | {"data": checkpoint["recipe"]["data"] | {"cache": False}}
    dataset = open_split(checkpoint | {"recipe": recipe}, split, root)
    if dataset.split_sha256 != run.split_sha256:
        raise ValueError(
            f"{dataset.root}: has another split than {run.folder} was trained on: slice with its split file"
        )
    return dataset


def predict_shown(
    groups: Sequence[Group], chosen: Sequence[tuple[str, str]], split: str, root: str | None
) -> list[Shown]:
    """The slice with most target of each chosen case, predicted by the first seed of each group.

    Raises ValueError where the data are not there, or hold other cases.
    """
    names = [case for case, _ in chosen]
    volumes: dict[str, dict[str, NDArray[np.uint8]]] = {name: {} for name in names}
    targets, spacings = {}, {}
    for group in groups:
        dataset = open_cases(group.first, split, root)
        if missing := sorted(set(names) - set(dataset.cases)):
            raise ValueError(
                f"{dataset.root}: its {split} split has no case {missing[0]}: slice with the runs' split file"
            )
        for case in predict_cases(group.first.checkpoint, dataset, names):
            volumes[case.case][group.name] = case.prediction
            targets[case.case], spacings[case.case] = case.target, case.spacing[1:]
    shown = []
    for case, place in chosen:
        records = [record for record in dataset.records if record.case == case]
        areas = (targets[case] > 0).sum((1, 2))
        number = int(areas.argmax()) if areas.any() else len(records) // 2
        window = groups[0].first.checkpoint["preprocessing"]["window"]
        shown.append(
            Shown(
                case=case,
                place=place,
                number=number,
                slices=len(records),
                image=read_slice(records[number].path)[0],
                limits=tuple(window) if window else (records[number].p005, records[number].p995),
                target=targets[case][number],
                predictions={name: labels[number] for name, labels in volumes[case].items()},
                spacing=spacings[case],
            )
        )
    return shown


def show_cases(shown: Sequence[Shown], groups: Sequence[Group], class_names: Sequence[str]) -> str:
    """A block of pictures for each case, with a legend before them."""
    classes = [
        (swatch(css(CLASS_SHADES[number % len(CLASS_SHADES)]), kind="square"), name)
        for number, name in enumerate(class_names)
    ]
    errors = [
        (swatch(css(MISSED), kind="square"), "missed (false negative)"),
        (swatch(css(FALSE_ALARM), kind="square"), "false alarm (false positive)"),
        *([(swatch(css(OTHER_CLASS), kind="square"), "another class")] if len(class_names) > 1 else []),
        (f'<span class="on-dark">{swatch(css(OUTLINE))}</span>', "outline of the target"),
    ]
    return f'<div class="legends">{legend(classes)}{legend(errors)}</div>' + "".join(
        _case(each, groups, class_names) for each in shown
    )


def _case(shown: Shown, groups: Sequence[Group], class_names: Sequence[str]) -> str:
    frame, base = shown.frame, shown.gray
    whole = drawing.whole_frame(shown.target.shape, shown.spacing)
    everything = drawing.gray(shown.image, *shown.limits, whole)
    if frame != whole:
        everything = drawing.framed(everything, whole, frame)
    where = f"{shown.case}, slice {shown.number + 1}"
    tiles = [
        _tile(
            [
                picture(everything, f"{where}: the whole slice"),
                picture(drawing.with_classes(base, shown.target, frame), f"{where}: target"),
            ],
            "Image and target",
            "the whole slice" if frame == whole else "the frame is what is shown beside it",
        )
    ]
    for group in groups:
        prediction = shown.predictions[group.name]
        dice = _dice(group.first, shown.case, class_names)
        tiles.append(
            _tile(
                [
                    picture(
                        drawing.with_classes(base, prediction, frame), f"{where}: prediction of {group.name}, {dice}"
                    ),
                    picture(
                        drawing.with_errors(base, shown.target, prediction, frame), f"{where}: errors of {group.name}"
                    ),
                ],
                group.name,
                dice,
            )
        )
    title = f"{text(shown.place)} <small>{text(shown.case)}, slice {shown.number + 1} of {shown.slices}</small>"
    width = PORTRAIT if frame.size[0] > PORTRAIT_RATIO * frame.size[1] else LANDSCAPE
    return f'<h3>{title}</h3><div class="tiles" style="--tile:{width}px">{"".join(tiles)}</div>'


def _tile(pictures: Sequence[str], name: str, below: str) -> str:
    pair = f'<div class="pair">{"".join(pictures)}</div>'
    return figure(pair, f"<b>{text(name)}</b><span>{text(below)}</span>", "tile")


def _dice(run: Run, case: str, class_names: Sequence[str]) -> str:
    """Dice of the whole case, in words."""
    rows = {row["class"]: row["dice"] for row in run.rows if row["case"] == case}
    if not rows:
        return "Dice unknown"
    mean = f"Dice {np.mean(list(rows.values())):.3f}"
    if len(class_names) == 1:
        return mean
    return f"{mean} ({', '.join(f'{name} {rows[name]:.2f}' for name in class_names if name in rows)})"
