"""Find the cases of the published raw layouts: KiTS, LiTS, MSD, ACDC (see data/README.md)."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets.findings import Finding

TUMOR_WORDS = ("tumor", "tumour", "cancer", "lesion")


@dataclass(frozen=True)
class RawCase:
    """One image with its label. Cases of one patient share `patient` and never fall into different splits."""

    case: str
    patient: str
    image: Path
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """The cases of a folder and what their numbers mean.

    findings: files that could not be paired. slice_axis: the file's axis to slice along where the anatomy does not
    decide it. slice_size: rows and columns a slice is known to have. spacings: (x, y, z) mm per case from a list beside
    the data. millimetres: an identity affine is a loss here.
    """

    name: str
    modality: Literal["CT", "MR"]
    labels: dict[int, str]
    cases: list[RawCase]
    findings: list[Finding] = field(default_factory=list)
    slice_axis: int | None = None
    slice_size: int | None = None
    spacings: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    millimetres: bool = False

    @property
    def tumor_labels(self) -> list[int]:
        return [value for value, name in self.labels.items() if any(word in name.lower() for word in TUMOR_WORDS)]


def find_kits(root: Path) -> RawDataset:
    """KiTS19/21/23: case_NNNNN/{imaging,segmentation}.nii.gz and kits.json, in `root` or in its folder `data`."""
    home = root if any(root.glob("case_*")) else root / "data"
    cases, findings = [], []
    for folder in sorted(path for path in home.glob("case_*") if path.is_dir()):
        images = _volumes(folder.iterdir(), r"imaging\.nii(\.gz)?")
        labels = _volumes(folder.iterdir(), r"segmentation\.nii(\.gz)?")
        labels = labels or _volumes(folder.iterdir(), r"aggregated_MAJ_seg\.nii(\.gz)?")  # KiTS21
        pair, found = _pair(folder / "imaging.nii.gz", images, folder / "segmentation.nii.gz", labels)
        findings += found
        if pair:
            cases.append(RawCase(folder.name, folder.name, *pair))
    names = {1: "kidney", 2: "tumor", 3: "cyst"}
    spacings = _kits_spacings(home)
    return RawDataset("kits", "CT", names, cases, findings, slice_size=512, spacings=spacings, millimetres=True)


def _kits_spacings(home: Path) -> dict[str, tuple[float, float, float]]:
    file = next((path for path in (home / "kits.json", home.parent / "kits.json") if path.is_file()), None)
    if file is None:
        return {}
    try:
        entries = {entry["case_id"]: entry.get("voxel_spacing") for entry in json.loads(file.read_text())}
        return {
            case: (float(spacing["x_spacing"]), float(spacing["y_spacing"]), float(spacing["z_spacing"]))
            for case, spacing in entries.items()
            if spacing
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: not a kits.json ({error!r}): download it again or move it away") from None


def find_lits(root: Path) -> RawDataset:
    """LiTS: volume-N.nii[.gz] and segmentation-N.nii[.gz], anywhere below `root` (Training_Batch1, Training_Batch2)."""
    images = _by_number(root, "volume")
    labels = _by_number(root, "segmentation")
    cases, findings = [], []
    for number in sorted(images.keys() | labels.keys()):
        name = f"volume-{number}"
        missing = root / f"{name}.nii", root / f"segmentation-{number}.nii"
        pair, found = _pair(missing[0], images.get(number, []), missing[1], labels.get(number, []))
        findings += found
        if pair:
            cases.append(RawCase(name, name, *pair))
    return RawDataset("lits", "CT", {1: "liver", 2: "tumor"}, cases, findings, slice_size=512, millimetres=True)


def _by_number(root: Path, kind: str) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in sorted(root.rglob(f"{kind}-*")):
        if match := re.fullmatch(rf"{kind}-(\d+)\.nii(\.gz)?", path.name):
            found.setdefault(int(match[1]), []).append(path)
    return found


def find_msd(root: Path) -> RawDataset:
    """Medical Segmentation Decathlon: dataset.json with imagesTr and labelsTr; names and modality are taken from it."""
    file = root / "dataset.json"
    if not file.is_file():
        raise ValueError(f"{file}: not found: --inpath is the folder of one task, such as Task04_Hippocampus")
    try:
        content = json.loads(file.read_text())
        labels = {int(value): str(name) for value, name in content["labels"].items() if int(value) > 0}
        modality = "CT" if "CT" in str(content["modality"]["0"]).upper() else "MR"
        entries = [(root / entry["image"], root / entry["label"]) for entry in content["training"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: not an MSD dataset.json ({error!r}): it needs modality, labels, training") from None
    cases, findings, seen = [], [], set()
    for image, label in sorted(entries):
        name = re.sub(r"\.nii(\.gz)?$", "", image.name)
        if name in seen:
            findings.append(Finding(image, "listed twice in dataset.json", "list every case once"))
            continue
        seen.add(name)
        present = [image] if image.is_file() else [], [label] if label.is_file() else []
        pair, found = _pair(image, present[0], label, present[1], unlabeled_is_meant=False)
        findings += found
        if pair:
            cases.append(RawCase(name, name, *pair))
    return RawDataset("msd", modality, labels, cases, findings, millimetres=modality == "CT")


def find_acdc(root: Path) -> RawDataset:
    """ACDC: patientNNN/patientNNN_frameNN[_gt].nii.gz with Info.cfg, anywhere below `root`; two frames a patient.

    Sliced along the third axis of the file: the stack is short-axis, and no anatomical axis lies along it.
    """
    cases, findings = [], []
    for folder in sorted({path.parent for path in root.rglob("patient*_frame*.nii*")}):
        frames = {match[0] for path in folder.iterdir() if (match := re.match(r"patient\d+_frame\d+", path.name))}
        info = folder / "Info.cfg"
        if not info.is_file():
            findings.append(Finding(info, "missing", "copy it from the download: it names the two frames", bad=False))
        else:
            named = re.findall(r"^E[DS]\s*:\s*(\d+)", info.read_text(), re.MULTILINE)
            for frame in sorted({f"{folder.name}_frame{int(number):02d}" for number in named} - frames):
                what = f"named in Info.cfg, but {frame}.nii.gz is missing"
                findings.append(Finding(folder / f"{frame}.nii.gz", what, "download the patient again"))
        for frame in sorted(frames):
            images = _volumes(folder.iterdir(), rf"{frame}\.nii(\.gz)?")
            labels = _volumes(folder.iterdir(), rf"{frame}_gt\.nii(\.gz)?")
            pair, found = _pair(folder / f"{frame}.nii.gz", images, folder / f"{frame}_gt.nii.gz", labels)
            findings += found
            if pair:
                cases.append(RawCase(frame, frame.split("_")[0], *pair))
    names = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    return RawDataset("acdc", "MR", names, cases, findings, slice_axis=2)


def _volumes(paths: Iterable[Path], pattern: str) -> list[Path]:
    return sorted(path for path in paths if re.fullmatch(pattern, path.name))


def _pair(
    image: Path, images: list[Path], label: Path, labels: list[Path], unlabeled_is_meant: bool = True
) -> tuple[tuple[Path, Path] | None, list[Finding]]:
    """Pair what was found for one case; `image` and `label` are the names to give where nothing was."""
    findings = [
        Finding(path, f"duplicate of {paths[0]}", "keep one of them")
        for paths in (images, labels)
        for path in paths[1:]
    ]
    if not images:
        findings.append(Finding(image, "missing", "download the image of this case"))
    if not labels:
        what, remedy = "missing, the case has no label", "nothing to do if it is a test case: it is left out"
        findings.append(Finding(label, what, remedy, bad=not unlabeled_is_meant))
    return ((images[0], labels[0]) if images and labels else None), findings


LAYOUTS: dict[str, Callable[[Path], RawDataset]] = {
    "kits": find_kits,
    "lits": find_lits,
    "msd": find_msd,
    "acdc": find_acdc,
}
LAYOUT_EXAMPLES = {
    "kits": "case_00000/imaging.nii.gz and case_00000/segmentation.nii.gz",
    "lits": "volume-0.nii and segmentation-0.nii",
    "msd": "dataset.json with its imagesTr and labelsTr",
    "acdc": "patient001/patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz",
}


def find_cases(dataset: str, root: Path) -> RawDataset:
    """List the cases of a folder in a published layout. Raises ValueError when there is none."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder: give the folder of the raw volumes as --inpath")
    raw = LAYOUTS[dataset](root)
    if not raw.cases and not raw.findings:
        raise ValueError(f"{root}: no {dataset} case found: expected {LAYOUT_EXAMPLES[dataset]}")
    return raw
