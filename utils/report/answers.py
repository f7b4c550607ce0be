"""Classification: confusion matrices, scores of each class, and test images with target and answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets import DATASETS
from utils.evaluation import drawing
from utils.evaluation.pictures import confusion_counts, telling
from utils.recipe.registry import build
from utils.report.attention import attention_maps
from utils.report.markup import MISSING, Column, figure, picture, table, text
from utils.runs.groups import Group, short_names
from utils.runs.run import Run
from utils.training import checkpoints

SIDE = 144  # pixels of an image in a grid
GRID = 14  # images in a grid
CLASS_SCORES = {"recall": "recall", "precision": "precision", "f1": "F1", "auroc": "AUROC"}


def open_images(run: Run, root: str | None) -> Dataset:
    """The run's test images. Raises ValueError when they are not there, or are not those it was scored on."""
    section = dict(run.recipe["data"])
    if root:
        section["file" if "file" in section else "root"] = root
    dataset = build(DATASETS, section, "data", split=run.split, seed=run.recipe.get("seed", 0))
    if dataset.split_sha256 != run.split_sha256:
        raise ValueError(f"{root or run.data}: has another split than {run.folder} was trained on: give its own data")
    return dataset


def confusion_matrix(run: Run, name: str) -> str:
    """A table: a row a target, a column an answer, the darker the larger its share of the row."""
    counts = confusion_counts(run.rows, run.class_names)
    shares = drawing.row_shares(counts)
    heads = "".join(f'<th scope="col" title="{text(each)}">{n}</th>' for n, each in enumerate(run.class_names, 1))
    lines = []
    for number, each in enumerate(run.class_names):
        cells = "".join(
            f'<td class="share{" dark" if share > 0.5 else ""}" style="--share:{share:.3f}" '
            f'title="{text(each)} answered as {text(other)}: {count}, {share:.0%}">{count}</td>'
            for other, count, share in zip(run.class_names, counts[number], shares[number], strict=True)
        )
        lines.append(f'<tr><th scope="row"><b>{number + 1}</b> {text(each)}</th>{cells}</tr>')
    body = (
        f'<div class="scroll"><table class="confusion"><thead><tr><th>target \\ answer</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    return figure(body, f"<b>{text(name)}</b>", "matrix")


def class_scores(groups: Sequence[Group]) -> str:
    """Recall, precision, F1 and AUROC of each class, means over seeds."""
    first = groups[0].first
    columns = [Column("class"), Column("images", True)]
    columns += [Column(name, True) for _ in CLASS_SCORES for name in short_names(groups)]
    over = [("", 2), *((CLASS_SCORES[score], len(groups)) for score in CLASS_SCORES)]
    rows = []
    for number, name in enumerate(first.class_names):
        cells = [text(name), str(sum(row["target"] == number for row in first.rows))]
        for score in CLASS_SCORES:
            for group in groups:
                values = [run.scores[key] for run in group.runs if (key := f"{score}/{name}") in run.scores]
                cells.append(f"{np.mean(values):.3f}" if values else MISSING)
        rows.append(cells)
    return table(
        columns, rows, f"{MISSING}: the class was never answered, so that nothing is known of its precision.", over
    )


def show_answers(groups: Sequence[Group], student: Group, dataset: Dataset) -> str:
    """Two grids: images of each class in turn, and the student's surest mistakes."""
    where = {case: index for index, case in enumerate(dataset.cases)}
    wrong = [row for row in student.first.rows if row["prediction"] != row["target"] and row["case"] in where]
    wrong.sort(key=lambda row: -max(row["probability"]))
    grids = (
        ("Images of each class in turn", telling(dataset, GRID)),
        (f"The surest mistakes of {student.name}", [where[row["case"]] for row in wrong[:GRID]]),
    )
    return "".join(f"<h3>{text(title)}</h3>{_grid(groups, dataset, indices)}" for title, indices in grids if indices)


def show_image_attention(groups: Sequence[Group], dataset: Dataset, count: int) -> str:
    """Each group's attention for the target's class on images of each class in turn."""
    networks = [(group, checkpoints.rebuild(group.first.checkpoint)) for group in groups]
    strips = []
    for index in telling(dataset, count):
        sample = dataset[index]
        shown, target = image_of(sample["image"], dataset), int(sample["target"])
        name = dataset.class_names[target]
        tiles = [figure(picture(shown, f"{sample['case']}: {name}"), "Image", "tile")]
        for group, network in networks:
            attention = attention_maps(network, sample["image"], [target])[0]
            frame = drawing.Frame(0, attention.shape[0], 0, attention.shape[1], shown.shape[:2])
            heat = drawing.with_heat(shown, attention, frame)
            tiles.append(
                figure(
                    picture(heat, f"{sample['case']}: attention of {group.name}"), f"<b>{text(group.name)}</b>", "tile"
                )
            )
        title = f"<h3>{text(name)} <small>{text(sample['case'])}</small></h3>"
        inside = f'<div class="tiles single" style="--count:{len(tiles)}">{"".join(tiles)}</div>'
        strips.append(f'<div class="strip">{title}{inside}</div>')
    return f'<div class="strips">{"".join(strips)}</div>'


def image_of(image: Tensor, dataset: Dataset) -> NDArray[np.uint8]:
    """The image (C, S, S) as it was before normalization, enlarged to (SIDE, SIDE, 3)."""
    pixels = drawing.image_pixels(image.numpy(), dataset.preprocessing["mean"], dataset.preprocessing["std"])
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _grid(groups: Sequence[Group], dataset: Dataset, indices: Sequence[int]) -> str:
    rows = {
        name: {row["case"]: row for row in group.first.rows}
        for name, group in zip(short_names(groups), groups, strict=True)
    }
    tiles = []
    for index in indices:
        sample = dataset[index]
        target, case = int(sample["target"]), sample["case"]
        lines = [f"<b>{text(dataset.class_names[target])}</b>"]
        for name, answers in rows.items():
            if case not in answers:
                continue
            answer = answers[case]["prediction"]
            kind, sign = ("right", "✓") if answer == target else ("wrong", "✗")
            share = answers[case]["probability"][answer]
            lines.append(
                f'<span class="{kind}">{sign} {text(name)}: {text(dataset.class_names[answer])} {share:.2f}</span>'
            )
        tiles.append(
            figure(
                picture(image_of(sample["image"], dataset), f"{case}: {dataset.class_names[target]}"),
                "".join(lines),
                "tile",
            )
        )
    return f'<div class="tiles small">{"".join(tiles)}</div>'
