"""Pictures of test cases: the worst, a median and the best volume, or images with answers; each with attention."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from datasets.json_files import read_json
from datasets.slices.back_to_source import BackToSource
from datasets.slices.resampling import Grid, grid_of
from datasets.slices.transforms import unpad
from utils.evaluation import drawing
from utils.evaluation.pictures import representative
from utils.evaluation.source_grid import source_slices
from utils.report.attention import attention_maps
from utils.runs.data import open_labeled, open_split
from utils.runs.groups import Group, short_names
from utils.runs.run import Run
from utils.runs.splits import predict_cases
from utils.training import checkpoints

QUALITY = 88
PORTRAIT, LANDSCAPE, PORTRAIT_RATIO = 280, 370, 1.15  # pixels of two pictures side by side at least
SIDE = 144  # pixels of an image in a grid
GRID = 14  # images in a grid


@dataclass(frozen=True)
class Picture:
    """An image within the page."""

    alt: str
    width: int
    height: int
    source: str


@dataclass(frozen=True)
class Tile:
    """Pictures side by side over a name, and lines of (CSS class, text)."""

    pictures: list[Picture]
    name: str
    lines: list[tuple[str, str]]
    is_group: bool = True


@dataclass(frozen=True)
class Block:
    """Tiles under a heading; width: of a tile, at least."""

    title: str
    note: str
    tiles: list[Tile]
    width: int = 150


@dataclass(frozen=True)
class Shown:
    """One slice of a case's source: image and target (H, W), a prediction of each group by name."""

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


def picture(pixels: NDArray[np.uint8], alt: str) -> Picture:
    """An image (H, W, 3) as WebP."""
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "WEBP", quality=QUALITY, method=4)
    height, width = pixels.shape[:2]
    return Picture(alt, width, height, f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}")


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


def predict_shown(
    groups: Sequence[Group], chosen: Sequence[tuple[str, str]], split: str, root: str | None
) -> list[Shown]:
    """The slice with most target of each chosen case, predicted by the first seed of each group.

    All on the source's grid, since groups may have spacings of their own; the image is the one the first group sees.
    Raises ValueError where the data are not there, or hold other cases.
    """
    names = [case for case, _ in chosen]
    volumes: dict[str, dict[str, NDArray[np.uint8]]] = {name: {} for name in names}
    targets, spacings = {}, {}
    datasets = [open_labeled(group.first.checkpoint, split, root) for group in groups]
    for group, dataset in zip(groups, datasets, strict=True):
        if missing := sorted(set(names) - set(dataset.cases)):
            raise ValueError(
                f"{dataset.root}: its {split} split has no case {missing[0]}: slice with the runs' split file"
            )
        for case in predict_cases(group.first.checkpoint, dataset, names):
            volumes[case.case][group.name] = case.prediction
            targets[case.case], spacings[case.case] = case.target, case.spacing[1:]
    shown = []
    window = groups[0].first.checkpoint["preprocessing"]["window"]
    for case, place in chosen:
        record = next(record for record in datasets[0].records if record.case == case)
        areas = (targets[case] > 0).sum((1, 2))
        number = int(areas.argmax()) if areas.any() else len(areas) // 2
        shown.append(
            Shown(
                case=case,
                place=place,
                number=number,
                slices=len(areas),
                image=source_slices(datasets[0], case)[number],
                limits=tuple(window) if window else (record.p005, record.p995),
                target=targets[case][number],
                predictions={name: labels[number] for name, labels in volumes[case].items()},
                spacing=spacings[case],
            )
        )
    return shown


def case_block(shown: Shown, groups: Sequence[Group], class_names: Sequence[str]) -> Block:
    """Image and target of a case, and the prediction and errors of each group."""
    frame, base = shown.frame, shown.gray
    whole = drawing.whole_frame(shown.target.shape, shown.spacing)
    everything = drawing.gray(shown.image, *shown.limits, whole)
    below = "the whole slice"
    if frame != whole:
        everything = drawing.framed(everything, whole, frame)
        below = "the frame is what is shown beside it"
    where = f"{shown.case}, slice {shown.number + 1}"
    target = drawing.with_classes(base, shown.target, frame)
    both = [picture(everything, f"{where}: the whole slice"), picture(target, f"{where}: target")]
    tiles = [Tile(both, "Image and target", [("", below)])]
    for group in groups:
        prediction = shown.predictions[group.name]
        dice = _dice(group.first, shown.case, class_names)
        labeled = drawing.with_classes(base, prediction, frame)
        errors = drawing.with_errors(base, shown.target, prediction, frame)
        both = [
            picture(labeled, f"{where}: prediction of {group.name}, {dice}"),
            picture(errors, f"{where}: errors of {group.name}"),
        ]
        tiles.append(Tile(both, group.name, [("", dice)]))
    width = PORTRAIT if frame.size[0] > PORTRAIT_RATIO * frame.size[1] else LANDSCAPE
    return Block(shown.place, f"{shown.case}, slice {shown.number + 1} of {shown.slices}", tiles, width)


def _dice(run: Run, case: str, class_names: Sequence[str]) -> str:
    """Dice of the whole case, in words."""
    rows = {row["class"]: row["dice"] for row in run.rows if row["case"] == case}
    if not rows:
        return "Dice unknown"
    mean = f"Dice {np.mean(list(rows.values())):.3f}"
    if len(class_names) == 1:
        return mean
    return f"{mean} ({', '.join(f'{name} {rows[name]:.2f}' for name in class_names if name in rows)})"


def case_attention(
    shown: Sequence[Shown], groups: Sequence[Group], class_names: Sequence[str], split: str, root: str | None
) -> list[Block]:
    """For each slice and class in it: the attention of each group's first seed."""
    opened = [
        (group, open_split(group.first.checkpoint, split, root), checkpoints.rebuild(group.first.checkpoint))
        for group in groups
    ]
    blocks = []
    for each in shown:
        classes = [number for number in range(1, len(class_names) + 1) if (each.target == number).any()]
        if not classes:
            continue
        found = []
        for _, dataset, network in opened:
            found.append(_source_attention(network, dataset, each, classes))
        frame, base = each.frame, each.gray
        for place, number in enumerate(classes):
            name = class_names[number - 1]
            outline = np.where(each.target == number, 1, 0)
            target = picture(drawing.outlined(base, outline, frame), f"{each.case}: {name}, target")
            tiles = [Tile([target], "Target", [], is_group=False)]
            for (group, _, _), maps in zip(opened, found, strict=True):
                is_found = bool((each.predictions[group.name] == number).any())
                heat = drawing.with_heat(base, maps[place], frame) if is_found else base
                alt = f"{each.case}: attention of {group.name} for {name}"
                absent = [] if is_found else [("", "predicts none here")]
                tiles.append(Tile([picture(drawing.outlined(heat, outline, frame), alt)], group.name, absent))
            blocks.append(Block(name, f"{each.place.lower()}, {each.case}", tiles))
    return blocks


def _source_attention(
    network: nn.Module, dataset: Dataset, shown: Shown, classes: Sequence[int]
) -> NDArray[np.float32]:
    """The attention (len(classes), H, W) for what is stored of a slice, on the grid of its source."""
    grid = grid_of(read_json(Path(dataset.root) / shown.case / "geometry.json"))
    sample = dataset[dataset.case_indices()[shown.case][shown.number // grid.slab]]
    maps = unpad(attention_maps(network, sample["image"], classes), sample["size"])
    back = BackToSource(Grid((1, *grid.source[1:]), (1, *grid.stored[1:])))
    back.add(torch.from_numpy(maps)[None])
    return back.take(0, 1)[0].numpy()


def answer_grids(groups: Sequence[Group], student: Group, dataset: Dataset) -> list[Block]:
    """Two grids: images of each class in turn, and the student's surest mistakes."""
    where = {case: index for index, case in enumerate(dataset.cases)}
    wrong = [row for row in student.first.rows if row["prediction"] != row["target"] and row["case"] in where]
    wrong.sort(key=lambda row: -max(row["probability"]))
    answers = {
        name: {row["case"]: row for row in group.first.rows}
        for name, group in zip(short_names(groups), groups, strict=True)
    }
    grids = {
        "Images of each class in turn": representative(dataset, GRID),
        f"The surest mistakes of {student.name}": [where[row["case"]] for row in wrong[:GRID]],
    }
    return [
        Block(title, "", [_answered(dataset[index], dataset, answers) for index in indices])
        for title, indices in grids.items()
        if indices
    ]


def _answered(sample: dict, dataset: Dataset, answers: dict[str, dict[str, dict]]) -> Tile:
    """An image, its target, and what each network answers."""
    case, target = sample["case"], dataset.class_names[int(sample["target"])]
    lines = []
    for name, rows in answers.items():
        if case not in rows:
            continue
        answer = rows[case]["prediction"]
        kind, sign = ("right", "✓") if dataset.class_names[answer] == target else ("wrong", "✗")
        share = rows[case]["probability"][answer]
        lines.append((kind, f"{sign} {name}: {dataset.class_names[answer]} {share:.2f}"))
    return Tile([picture(image_of(sample["image"], dataset), f"{case}: {target}")], target, lines)


def image_attention(groups: Sequence[Group], dataset: Dataset, count: int) -> list[Block]:
    """Each group's attention for the target's class on images of each class in turn."""
    networks = [(group, checkpoints.rebuild(group.first.checkpoint)) for group in groups]
    blocks = []
    for index in representative(dataset, count):
        sample = dataset[index]
        shown, target, case = image_of(sample["image"], dataset), int(sample["target"]), sample["case"]
        name = dataset.class_names[target]
        tiles = [Tile([picture(shown, f"{case}: {name}")], "Image", [], is_group=False)]
        for group, network in networks:
            attention = attention_maps(network, sample["image"], [target])[0]
            heat = drawing.with_heat(shown, attention, drawing.whole_frame(attention.shape, side=SIDE))
            tiles.append(Tile([picture(heat, f"{case}: attention of {group.name}")], group.name, []))
        blocks.append(Block(name, case, tiles))
    return blocks


def image_of(image: Tensor, dataset: Dataset) -> NDArray[np.uint8]:
    """The image (C, S, S) as it was before normalization, enlarged to (SIDE, SIDE, 3)."""
    pixels = drawing.image_pixels(image.numpy(), dataset.preprocessing["mean"], dataset.preprocessing["std"])
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
