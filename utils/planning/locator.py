"""The recipe of a locator: a small student at coarse pixels that finds where any label is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from datasets.slices.transforms import next_multiple
from utils.planning import choices, recipes
from utils.planning.choices import Choice, PixelGrid
from utils.planning.fingerprint import Fingerprint

# of 0.14 M parameters; ESPNet, the smallest, learned no kidney at 5 mm in a thousand steps
NETWORK = {"name": "unet", "widths": [8, 8, 16, 32, 64]}
FINEST, COARSEST = 4.0, 6.0  # mm
SIDE = 96  # pixels that the widest slice is to have


def plan_locator(fingerprint: Fingerprint, network: str | None) -> tuple[dict[str, Any], dict[str, Choice], str]:
    """Recipe, choices and the command that makes its store.

    Raises ValueError where pixels are as coarse already, or nobody knows their millimeters.
    """
    fingerprint = replace(fingerprint, task="organ")
    pixel = fingerprint.in_plane
    if pixel is None or pixel > FINEST / choices.COARSER_BY:
        size = "have no millimeters" if pixel is None else f"measure {pixel:.2g} mm"
        raise ValueError(f"{fingerprint.store}: pixels {size}: a locator at {FINEST:g} mm would spare nothing")
    field = max(max(case.shape[axis] * case.spacing[axis] for axis in (1, 2)) for case in fingerprint.training)
    spacing = min(max(round(field / SIDE, 1), FINEST), COARSEST)
    slab = max(spacing, fingerprint.slice_spacing or 0.0)
    grid = PixelGrid(spacing, slab)
    side = max(choices.SMALLEST_CROP, next_multiple(max(max(grid.size(case)) for case in fingerprint.training)))
    chosen = {"data.task": Choice("organ", "every label counts as one class")} | choices.of_data(fingerprint, grid)
    chosen |= {
        "data.crop": Choice(side, "whole slices: where to look is what it learns"),
        "data.crop_mode": Choice("center", "whole slices"),
        "data.neighbors": Choice(0, "a locator is to be fast"),
    }
    chosen.pop("data.neighbor_mm", None)
    share = choices.kept_slices(fingerprint, chosen["data.thin_background"].value) / sum(fingerprint.slices("train"))
    slices = round(share * sum(grid.slices(case) for case in fingerprint.training))
    batch = choices.batch_of(side, slices)
    epochs, rate = choices.schedule_of(slices, batch.value)
    chosen |= {"training.epochs": epochs, "training.batch_size": batch, "training.learning_rate": rate}
    root = fingerprint.store.with_name(f"{fingerprint.store.name}_{spacing:g}mm")
    section = recipes.network_section(network, side) if network else NETWORK
    recipe = recipes.recipe_of(f"runs/{fingerprint.store.name}_locator", root, chosen, section)
    why = f"the widest slice, of {field:.0f} mm, has about {SIDE} pixels; {FINEST:g} to {COARSEST:g} mm"
    slabs = "as thick as the pixels are wide: thinner slices of a volume are looked at together"
    first = {"spacing": Choice(spacing, why), "slice_spacing": Choice(slab, slabs)}
    return recipe, first | chosen, recipes.slice_command(fingerprint, root, grid)


def write_locator(fingerprint: Fingerprint, network: str | None, output: Path) -> int:
    """Write the recipe, and print what was chosen and what to run."""
    file = output / "locator.yaml"
    recipes.refuse_foreign([file])
    recipe, chosen, command = plan_locator(fingerprint, network)
    train = recipes.train_command("train.py", file)
    remarks = [f"locator {recipe['network']['name']} for {recipe['data']['root']}", train, f"Its store: {command}"]
    recipes.write({file: recipes.as_text(recipe, remarks)})
    for line in recipes.listed(chosen):
        print(line)
    print(f"wrote {file}; to run:")
    for line in (command, train, *_use(fingerprint, recipe["output"])):
        print(f"  {line}")
    return 0


def _use(fingerprint: Fingerprint, run: str) -> list[str]:
    """What follows the training: the margin of the boxes is measured on val, and the student looks into the boxes."""
    student = f"runs/{fingerprint.store.name}_student"
    return [
        f"python scripts/evaluate.py --checkpoint {quote(run)} --split val --margin",
        f"python scripts/predict.py --checkpoint {quote(student)} --locate {quote(run)} "
        f"--input {quote(str(fingerprint.raw or 'RAW'))} --output located",
    ]
