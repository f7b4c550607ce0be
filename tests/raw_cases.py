"""Small raw data sets in the published layouts, and SliceMaker called on them."""

import json
from pathlib import Path

import nibabel
import numpy as np

from datasets.slices.store import read_index, read_slice
from datasets.volumes.geometry import restore
from scripts.SliceMaker import main
from utils.recipe.schema import ROOT

SHARED = ROOT.parent / "shared" / "data" / "totalseg_example"  # real CTs, where they are there
KITS = np.array([[0, 0, -0.8, 40], [0, -0.8, 0, 30], [-2.5, 0, 0, 20], [0, 0, 0, 1]])  # (slices, H, W): I P L
LITS = np.diag([-0.8, -0.8, 2.5, 1])  # (W, H, slices): L P S


def hounsfield(seed: int, shape: tuple[int, ...] = (6, 10, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def label_of(shape: tuple[int, ...] = (6, 10, 12)) -> np.ndarray:
    """(slices, H, W): organ on the slices 1 to 3, tumor on slice 2."""
    label = np.zeros(shape, np.uint8)
    label[1:4, 2:6, 3:7] = 1
    label[2, 3:5, 4:6] = 2
    return label


def save(path: Path, array: np.ndarray, affine: np.ndarray = KITS, dtype: type | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array if dtype is None else array.astype(dtype), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    nibabel.save(image, path)
    return path


def kits_case(root: Path, number: int, **changes) -> Path:
    folder = root / f"case_{number:05d}"
    affine = changes.get("affine", KITS)
    save(folder / "imaging.nii.gz", changes.get("image", hounsfield(number)), affine)
    save(folder / "segmentation.nii.gz", changes.get("label", label_of()), changes.get("label_affine", affine))
    return folder


def make(raw: Path, out: Path, *flags: str, dataset: str = "kits") -> int:
    return main(["--inpath", str(raw), "--outpath", str(out), "--dataset", dataset, "--jobs", "1", *flags])


def volume_of(out: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """The slices of a case, put back on the grid of its source."""
    pairs = [read_slice(record.path) for record in read_index(out) if record.case == case]
    geometry = json.loads((out / case / "geometry.json").read_text())
    return tuple(restore(np.stack(parts), geometry) for parts in zip(*pairs, strict=True))


def msd(root: Path, images: dict[str, np.ndarray], modality: dict | None = None, labels: dict | None = None) -> Path:
    for name, image in images.items():
        save(root / f"imagesTr/{name}.nii.gz", image, LITS)
        save(root / f"labelsTr/{name}.nii.gz", label_of(image.shape[:3]), LITS)
    content = {
        "modality": modality or {"0": "MRI"},
        "labels": labels or {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in images],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cases_of(out: Path) -> list[str]:
    return sorted({record.case for record in read_index(out)})
