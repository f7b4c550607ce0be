"""The description as the metadata.json of a MONAI bundle.

https://docs.monai.io/en/stable/mb_specification.html; the schema is meta_schema_20240725.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "1.0.0"
REQUIRED_PACKAGES = ("nibabel", "safetensors", "onnx", "onnxruntime")


def metadata(description: Mapping[str, Any]) -> dict[str, Any]:
    """metadata.json: who takes what and answers what, in MONAI's words; outputs are logits, before any softmax."""
    preprocessing, versions = description["preprocessing"], description["versions"]
    is_image = preprocessing.get("kind") == "image"
    names = description["outputs"]
    modality = "photograph" if is_image else preprocessing["modality"]
    channels = description["in_channels"]
    size = description.get("onnx", {}).get("size")
    fixed = [preprocessing["image_size"]] * 2 if is_image else size
    inputs = {
        "type": "image",
        "format": {"CT": "hounsfield", "MR": "magnitude"}.get(modality, "raw"),
        "modality": modality,
        "num_channels": channels,
        "spatial_shape": fixed or [f"{preprocessing['multiple']}*n"] * 2,
        "dtype": "float32",
        "value_range": value_range(preprocessing),
        "is_patch_data": False,
        "channel_def": {str(number): name for number, name in enumerate(_channel_names(modality, channels))},
    }
    outputs = {
        "type": "probabilities" if is_image else "image",
        "format": "classes" if is_image else "segmentation",
        "num_channels": len(names),
        "spatial_shape": [1, 1] if is_image else inputs["spatial_shape"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }
    what = "classification" if is_image else "segmentation"
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "exported"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {package: versions[package] for package in REQUIRED_PACKAGES},
        "name": description["name"],
        "task": f"{modality} {what}: {', '.join(preprocessing['class_names'])}",
        "description": f"{description['network']['name']}, 2D, {description['parameters']:,} parameters",
        "authors": "unspecified",
        "copyright": description["license"],
        "data_source": description["recipe"].get("data", {}).get("name", "unspecified"),
        "data_type": "image" if is_image else "nifti, dicom",
        "image_classes": "see README.md: preprocessing",
        "label_classes": ", ".join(f"{number} {name}" for number, name in enumerate(names)),
        "pred_classes": f"{len(names)} channels of logits, one a class",
        "eval_metrics": _eval_metrics(description["measured"]),
        "intended_use": "research; no medical device",
        "network_data_format": {"inputs": {"image": inputs}, "outputs": {"pred": outputs}},
    }


def _eval_metrics(measured: Mapping[str, Any] | None) -> dict[str, float]:
    """The selecting score of each form on val."""
    if measured is None:
        return {}
    return {
        f"val {measured['score']}, {form}": scores[measured["score"]] for form, scores in measured["scores"].items()
    }


def value_range(preprocessing: Mapping[str, Any]) -> list[float]:
    """Smallest and largest value the network sees; empty where there is no bound, as after a z-score."""
    if preprocessing.get("kind") == "image":
        mean, std = preprocessing["mean"], preprocessing["std"]
        pairs = list(zip(mean, std, strict=True))
        return [min(-m / s for m, s in pairs), max((1 - m) / s for m, s in pairs)]
    return [] if preprocessing["window"] is None else [-1.0, 1.0]


def _channel_names(modality: str, channels: int) -> list[str]:
    if channels == 3:
        return ["red", "green", "blue"]
    return ["gray" if modality == "photograph" else f"{modality} slice"] * channels
