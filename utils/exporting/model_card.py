"""The model card: what a person reads before using a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.slices.resampling import asked_words
from utils.evaluation.kind import IMAGES, SLICES, kind_of
from utils.evaluation.metrics.volume_dice import AGREEMENT
from utils.runs.artifact import INT8, ONNX, PROGRAM, UNSPECIFIED, WEIGHTS
from utils.runs.results import labels_seen

SHOWN = ("dice", "balanced_accuracy", "accuracy", "auroc", "macro_f1")
MEANINGS = {
    WEIGHTS: "weights only, with `student.json`; rebuilt by this project's code",
    ONNX: "the network in fp32, one file that describes itself; runs with ONNX Runtime",
    INT8: "the same in 8-bit integers, for processors",
    PROGRAM: "PyTorch's ExportedProgram: `torch.export.load(...).module()`, without any other code",
}


@dataclass(frozen=True)
class Wording:
    """What the card says differently for slices and for images."""

    does: str
    input_shape: str
    output_shape: str
    sizes: str
    steps: Sequence[str]
    limits: Sequence[str] = ()


def _of_slices(description: Mapping[str, Any]) -> Wording:
    preprocessing, size = description["preprocessing"], description.get("onnx", {}).get("size")
    sizes = f"any batch, height and width multiples of {preprocessing['multiple']}"
    if size:
        sizes = f"any batch; the ONNX files take {size[0]}x{size[1]} only, `predict.py` pads smaller slices"
    scaling = "Minus the mean of the whole volume, divided by its standard deviation."
    if preprocessing["window"] is not None:
        lower, upper = preprocessing["window"]
        scaling = f"Clipped to {lower:g} to {upper:g} HU, scaled to [-1, 1]."
    words = asked_words(preprocessing)
    resampled = f"Resampled to {words} (averaged over areas)." if words else ""
    back = "The logits are cut back to the slice"
    back += ", and return to the grid of the volume before the argmax." if words else "."
    crop = f", and at least {preprocessing['crop']} pixels" if preprocessing["crop"] else ""
    limit, around = "It sees one slice at a time, without the slices next to it.", ()
    if neighbors := preprocessing.get("neighbors", 0):
        step = preprocessing.get("neighbor_mm")
        apart = "the next ones" if step is None else f"the nearest to every {step:g} mm"
        around = (
            f"Channels from inferior to superior: the slice in the middle, {neighbors} on each side of it ({apart}); "
            "beyond the ends of the volume its last slice.",
        )
        limit = f"It sees {description['in_channels']} slices at a time, not the whole volume."
    return Wording(
        does=f"It segments {_names(description)} in {preprocessing['modality']} volumes, slice by slice.",
        input_shape=f"(B, {description['in_channels']}, H, W)",
        output_shape="(B, K, H, W)",
        sizes=sizes,
        steps=(
            "Slices along the most axial axis, rows from front to back, columns from the patient's right to left.",
            *([resampled] if words else []),
            scaling,
            f"Padded evenly on all sides with {preprocessing['pad_value']:g} to multiples of "
            f"{preprocessing['multiple']}{crop}; nothing is {'' if words else 'resampled or '}cut. {back}",
            *around,
        ),
        limits=(limit,),
    )


def _of_images(description: Mapping[str, Any]) -> Wording:
    preprocessing, channels = description["preprocessing"], description["in_channels"]
    side = preprocessing["image_size"]
    return Wording(
        does=f"It classifies images as {_names(description)}.",
        input_shape=f"(B, {channels}, {side}, {side})",
        output_shape="(B, K)",
        sizes="any batch",
        steps=(
            f"{'RGB' if channels == 3 else 'Gray'}, 8 bits a channel.",
            f"Resized to {side}x{side} (bilinear, antialiased), whatever its proportions.",
            f"Divided by 255, minus {preprocessing['mean']}, divided by {preprocessing['std']}, a channel each.",
        ),
    )


WORDINGS = {SLICES: _of_slices, IMAGES: _of_images}


def model_card(description: Mapping[str, Any]) -> str:
    """README.md, in Markdown."""
    kind = kind_of(description["preprocessing"])
    wording = WORDINGS[kind](description)
    parts = [
        f"# {description['name']}",
        f"{wording.does} {_network(description)}",
        "## Trained on\n\n" + _trained_on(description),
        "## Input and output\n\n" + _input_output(description, wording),
        "## Preprocessing\n\n" + "\n".join(f"{n}. {line}" for n, line in enumerate(wording.steps, 1)),
        "## Scores\n\n" + _scores(description),
        "## Files\n\n" + _files(description),
        "## How to run\n\n" + _how_to_run(description, kind.example),
        "## Limits and intended use\n\n"
        + _list(
            "For research. It is not a medical device; nobody's diagnosis or treatment may rest on it.",
            f"It knows {kind.inputs} like those it was trained on. Other scanners, protocols, populations and diseases "
            "lower its scores in ways that nothing here measures: evaluate it on your own data first.",
            *wording.limits,
        ),
        "## License\n\n" + _license(description),
    ]
    return "\n\n".join(parts) + "\n"


def _names(description: Mapping[str, Any]) -> str:
    return ", ".join(description["preprocessing"]["class_names"])


def _network(description: Mapping[str, Any]) -> str:
    how = "trained on labels alone"
    if terms := description["recipe"].get("distillation"):
        losses = ", ".join(dict.fromkeys(term["name"] for term in terms))
        how = f"distilled from a teacher ({losses})"
    return f"A 2D `{description['network']['name']}` network of {description['parameters']:,} parameters, {how}."


def _trained_on(description: Mapping[str, Any]) -> str:
    split, recipe, source = description["split"], description["recipe"], description["source"]
    data = recipe.get("data", {})
    place = data.get("root") or data.get("file")
    patients = ", ".join(f"{count} {name}" for name, count in split["patients"].items())
    return _list(
        f"Data: {data.get('name', UNSPECIFIED)}{f', {place}' if place else ''}; task {data.get('task', 'as stored')}.",
        f"Patients: {patients}; no patient is in two of them. Split sha256 `{split['sha256']}`."
        if patients
        else "Patients: not known; the weights were converted from a published file that does not name them.",
        f"Checkpoint: `{source['file']}`, sha256 `{source['sha256']}`"
        + (f", epoch {source['epoch']}." if source.get("epoch") is not None else "."),
        "The whole recipe is in `student.json`.",
    )


def _input_output(description: Mapping[str, Any], wording: Wording) -> str:
    classes = ", ".join(f"{number} {name}" for number, name in enumerate(description["outputs"]))
    return _list(
        f"Input `image`: float32 {wording.input_shape}, {wording.sizes}.",
        f"Output `logits`: float32 {wording.output_shape}, K = {len(description['outputs'])}, before any softmax. The "
        "answer is the class with the highest logit; of equal ones, that with the lower number.",
        f"Classes: {classes}.",
    )


def scored_at(description: Mapping[str, Any]) -> str:
    """A clause for scores that are taken on the resampled slices; empty where those are the volumes' own."""
    words = asked_words(description["preprocessing"])
    return f" at {words}" if words else ""


def _scores(description: Mapping[str, Any]) -> str:
    parts = [f"Labels: {seen}."] if (seen := labels_seen({"": description["recipe"]})) else []
    if measured := description.get("measured"):
        score = measured["score"]
        names = [name for name in next(iter(measured["scores"].values())) if name.startswith(f"{score}/")]
        rows = [
            [form, *(f"{scores[name]:.4f}" for name in (score, *names)), f"{measured['milliseconds'][form]:.2f}"]
            for form, scores in measured["scores"].items()
        ]
        parts.append(
            f"Val split{scored_at(description)}, {measured['cases']} cases, {measured['images']} images, "
            "the test split was not touched; "
            f"milliseconds an image, batch and size {measured['timed_shape']}, {measured['threads']} threads of a "
            "processor, median of runs in turn:"
        )
        parts.append(_table(["form", score, *names, "ms"], rows))
    else:
        parts.append("The forms were not measured: the val split was not there when this was exported.")
    recorded, test = description["scores"]["val"], description["scores"]["test"]
    if recorded:
        parts.append(f"In training, on val, in the run's own precision: {_main_scores(recorded)}.")
    if test:
        parts.append(
            f"On the test split, {test['cases']} cases, read once after training: {_main_scores(test['scores'])}."
        )
    rule = (measured or {}).get("empty_mask_rule") or (test or {}).get("empty_mask_rule")
    if rule:
        parts.append(f"Empty masks: {rule}. Scores are of whole cases, every slice counts.")
    return "\n\n".join(parts)


def _main_scores(scores: Mapping[str, float]) -> str:
    shown = {name: value for name, value in scores.items() if name.removeprefix(AGREEMENT).split("/")[0] in SHOWN}
    return ", ".join(f"{name} {value:.4f}" for name, value in shown.items())


def _files(description: Mapping[str, Any]) -> str:
    rows = []
    for name, facts in description["files"].items():
        rows.append([f"`{name}`", f"{facts['bytes'] / 1e6:.2f}", MEANINGS[name], f"`{facts['sha256'][:16]}`"])
    notes = []
    if "onnx" in description:
        parity = "; ".join(
            f"{'x'.join(map(str, row['shape']))}: {row['max_abs_difference']:.1e} ({row['relative']:.1e} of the "
            f"largest logit), {row['labels_differing']:.2%} of the labels"
            for row in description["onnx"]["parity"]
        )
        notes.append(f"Largest difference of the fp32 ONNX file's logits from PyTorch's, on noise: {parity}.")
    if "int8" in description:
        int8 = description["int8"]
        notes.append(
            f"int8: calibrated on {int8['images']} images of the train split ({int8['ranges']}), of which "
            f"{int8['labels_differing']:.2%} of the labels differ from those of fp32. On processors without 8-bit dot "
            "products (VNNI; most made before 2019) sums may saturate: evaluate it there before use."
        )
    return "\n\n".join([_table(["file", "MB", "what", "sha256"], rows), *notes])


def _how_to_run(description: Mapping[str, Any], example: str) -> str:
    names = [name for name in (WEIGHTS, ONNX, INT8) if name in description["files"]]
    commands = [
        f"python scripts/predict.py --checkpoint {name} --input {example} --output predictions" for name in names
    ]
    return "```\n" + "\n".join(commands) + "\n```"


def _license(description: Mapping[str, Any]) -> str:
    if description["license"] == UNSPECIFIED:
        return "Unspecified: ask the person who gave it to you. The license of the training data may apply as well."
    return description["license"]


def _list(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
