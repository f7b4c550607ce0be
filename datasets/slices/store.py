"""The slice store: one folder per case, one file per slice, an index. Needs numpy; neither torch nor MONAI.

    ROOT/dataset.json, split.json, index.csv
    ROOT/<case>/geometry.json, case.json, 0000.npz ...   (png: 0000.png 16-bit and 0000_label.png 8-bit)
    ROOT/<case>/source_labels.npz                        (of a case that was resampled: its labels as they were)

Where dataset.json knows no label, nobody labeled these scans: the label of a slice is one pixel in an npz, and empty in
a PNG.

Slice 0 is the most inferior; rows run anterior -> posterior, columns patient right -> patient left.
"""

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import write_text, write_texts
from datasets.publishing import Kind
from datasets.slices.npz import pack, read_arrays

COLUMNS = ("case", "patient", "slice", "file", "split", "labels", "mean", "std", "p005", "p995")
MANIFEST = {"dataset", "modality", "task", "labels", "tumor_labels", "split_sha256"}
RECORD = "case.json"
NO_LABEL = np.zeros((1, 1), np.uint8)  # of a scan that nobody labeled
PNG_OFFSET = "offset"  # the text chunk of a slice's PNG: what to subtract from its 16-bit values
CT_PNG_OFFSET = 1 << 15


@dataclass(frozen=True)
class SliceRecord:
    """One row of index.csv. mean, std, p005, p995 describe the intensities of the whole case; labels are values > 0."""

    case: str
    patient: str
    slice: int
    file: str
    split: str
    labels: tuple[int, ...]
    mean: float
    std: float
    p005: float
    p995: float
    root: Path

    @property
    def path(self) -> Path:
        """Made when it is asked for: a store has a hundred thousand slices."""
        return self.root / self.file


def read_index(root: Path | str) -> list[SliceRecord]:
    """Read index.csv, cases in order and slices from inferior to superior. Raises ValueError when it is not there."""
    root = Path(root).absolute()
    path = root / "index.csv"
    if not path.is_file():
        raise ValueError(f"{path}: not found: {root} is not a slice store; make one with scripts/SliceMaker.py")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {', '.join(sorted(missing))}: run scripts/SliceMaker.py again")
        try:
            return [_record(root, row) for row in reader]
        except (ValueError, TypeError, AttributeError) as error:
            what = f"line {reader.line_num} is damaged ({error})"
            raise ValueError(f"{path}: {what}: run scripts/SliceMaker.py again") from None


def _record(root: Path, row: dict[str, str]) -> SliceRecord:
    return SliceRecord(
        case=row["case"],
        patient=row["patient"],
        slice=int(row["slice"]),
        file=row["file"],
        split=row["split"],
        labels=tuple(int(value) for value in row["labels"].split()),
        mean=float(row["mean"]),
        std=float(row["std"]),
        p005=float(row["p005"]),
        p995=float(row["p995"]),
        root=root,
    )


def write_catalog(root: Path, records: Iterable[SliceRecord], split: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Replace split.json, index.csv and dataset.json together: a full disk leaves all three as they were."""
    lines = [COLUMNS]
    for record in records:
        labels = " ".join(str(value) for value in record.labels)
        place = (record.case, record.patient, record.slice, record.file, record.split, labels)
        lines.append((*place, *(f"{value:.9g}" for value in (record.mean, record.std, record.p005, record.p995))))
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    texts = {"split.json": to_json(split), "index.csv": text.getvalue(), "dataset.json": to_json(manifest)}
    write_texts({root / name: content for name, content in texts.items()})


def read_manifest(root: Path | str) -> dict[str, Any]:
    """Read dataset.json: dataset, modality, format, task, labels, tumor_labels, split_sha256."""
    path = Path(root) / "dataset.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found: {root} is not a slice store; make one with scripts/SliceMaker.py")
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}): run scripts/SliceMaker.py again") from None
    if not isinstance(content, dict) or not content.keys() >= MANIFEST:
        raise ValueError(f"{path}: is not of a slice store: make one with scripts/SliceMaker.py")
    return content


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step."""
    write_text(path, to_json(content))


def read_slice(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Read one slice: image (H, W) int16 HU, or float16/float32 for MR, and label (H, W) uint8."""
    path = Path(path)
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        image, label = arrays["image"], arrays["label"]
        return image, np.zeros(image.shape, np.uint8) if label.shape == NO_LABEL.shape else label
    from PIL import Image  # slicing into npz starts without it

    with Image.open(path) as picture:
        values, offset = np.asarray(picture), int(picture.text[PNG_OFFSET])
    with Image.open(path.with_name(f"{path.stem}_label.png")) as picture:
        label = np.asarray(picture).astype(np.uint8)
    return (values.astype(np.int32) - offset).astype(np.int16) if offset else values.astype(np.float32), label


def write_slice(path: Path, image: np.ndarray, label: np.ndarray | None, compress: bool = False) -> None:
    """Write one slice as `path` says (.npz or .png). PNG holds int16, or whole numbers in 0..65535; both are lossless.

    label: None for a scan that nobody labeled. Slices are stored, not compressed, unless asked: reading them is then a
    copy. An OSError (a full disk) has the path.
    """
    try:
        if path.suffix == ".npz":
            with path.open("wb") as file:
                file.writelines(pack({"image": image, "label": NO_LABEL if label is None else label}, compress))
            return
        from PIL import Image, PngImagePlugin

        offset = CT_PNG_OFFSET if image.dtype == np.int16 else 0
        values = (image.astype(np.int32) + offset).astype(np.uint16)
        text = PngImagePlugin.PngInfo()
        text.add_text(PNG_OFFSET, str(offset))
        Image.fromarray(values).save(path, pnginfo=text, compress_level=1)
        label = np.zeros(image.shape, np.uint8) if label is None else label
        Image.fromarray(label).save(path.with_name(f"{path.stem}_label.png"), compress_level=1)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def read_case(folder: Path) -> dict[str, Any] | None:
    """Read the record of a published case (case.json), or None if the folder is not one."""
    record = _read_record(folder)
    return record if _is_of(record, folder.name) and "slices" in record else None


def _read_record(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return None


def _is_of(record: Any, case: str) -> bool:
    """Whether SliceMaker wrote this record, and not another program."""
    return isinstance(record, dict) and record.get("case") == case and isinstance(record.get("settings"), dict)


def _is_case(folder: Path, case: str) -> bool:
    """Whether SliceMaker made a folder of slices; a killed run may have left it before the record was whole."""
    return _is_of(_read_record(folder), case) or {file.name for file in folder.iterdir()} == {f".{RECORD}.partial"}


def is_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether all files of a published case are there, the slices in their full size."""
    pattern = re.compile(_COUNTED)
    counted = [entry for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]
    return (folder / "geometry.json").is_file() and sum(entry.stat().st_size for entry in counted) == record["bytes"]


_COUNTED = r"\d{4,}\.npz|\d{4,}(_label)?\.png|source_labels\.npz"  # the files whose bytes a record holds
CASES = Kind(re.compile(rf"{_COUNTED}|(geometry|case)\.json|\.(geometry|case)\.json\.partial"), _is_case, RECORD)


def published_cases(root: Path) -> list[dict[str, Any]]:
    """The records of every published case, in order of name, whichever run or machine sliced it."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [record for folder in folders if (record := read_case(folder)) is not None]


def index_rows(root: Path, case: dict[str, Any], split: str, suffix: str) -> list[SliceRecord]:
    """The rows of index.csv for one published case."""
    statistics = case["statistics"]
    return [
        SliceRecord(
            case=case["case"],
            patient=case["patient"],
            slice=index,
            file=f"{case['case']}/{index:04d}{suffix}",
            split=split,
            labels=tuple(labels),
            mean=statistics["mean"],
            std=statistics["std"],
            p005=statistics["p005"],
            p995=statistics["p995"],
            root=root,
        )
        for index, labels in enumerate(case["slices"])
    ]
