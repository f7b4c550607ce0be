"""MedMNIST (Yang et al. 2023) and whatever else is kept in such an npz, as labeled images."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np

from datasets.files import describe
from datasets.images.dataset import DEFAULT_OPTIONS, ImageOptions, ImageRecord, LabeledImages
from datasets.images.duplicates import groups, pixels_digest
from datasets.splits import SPLITS

ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
COMPARED_MB = 256  # of images; a larger file is not searched for copies
CLASS_NAMES = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil"),
        "platelet",
    ),
    "tissuemnist": (
        *("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
        "thick ascending limb",
    ),
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}


def medmnist(
    file: str,
    split: str,
    options: ImageOptions = DEFAULT_OPTIONS,
    class_names: Sequence[str] | None = None,
    download: bool = False,
) -> LabeledImages:
    """One split of a 2D MedMNIST file, in its official split; for `options` see `ImageOptions`.

    The file names no patients, so every image counts as its own. That is not always so: HAM10000 has several images of
    a lesion, and DermaMNIST's official split is by image, so the same lesion may lie in train and in test.

    Args:
        file: npz with `train_images`, `train_labels`, `val_...` and `test_...`: images uint8 (N, H, W) or (N, H, W, 3),
            labels (N, 1) or (N,). The official sets may have any size: `dermamnist.npz`, `dermamnist_224.npz`.
        split: `train`, `val` or `test`.
        class_names: None: those of the official set the file is named after, else `class 0`, `class 1`, ...
        download: Fetch an official set with the package `medmnist` if the file is not there.

    Raises ValueError for any other file, and for several labels per image (ChestMNIST).
    """
    path = Path(file)
    if download and not path.is_file():
        _download(path)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose from {', '.join(SPLITS)}")
    images, labels = _read(path, split)
    names = _class_names(path, class_names, max(int(values.max()) for values in labels.values()) + 1)
    notes = _copies(path, path.stat().st_mtime_ns)
    cases = {name: [f"{name}_{row:05d}" for row in range(len(labels[name]))] for name in SPLITS}
    records = [
        ImageRecord(case, case, int(label), row)
        for row, (case, label) in enumerate(zip(cases[split], labels[split], strict=True))
    ]
    if options.image_size is None:
        options = replace(options, image_size=max(images.shape[1:3]))
    return LabeledImages(
        records,
        partial(_row, images),
        names,
        split,
        patients=cases,
        options=options,
        notes=notes,
    )


def _row(images: np.ndarray, record: ImageRecord) -> np.ndarray:
    return images[record.source]


def _read(path: Path, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images (N, H, W) or (N, H, W, 3) of `split`, and the labels (N,) of every split."""
    *arrays, images = _arrays(path, [*(f"{name}_labels" for name in SPLITS), f"{split}_images"])
    labels = dict(zip(SPLITS, arrays, strict=True))
    for name, values in labels.items():
        if not values.size or values.ndim not in (1, 2):
            raise ValueError(f"{path}: {name}_labels are {values.shape}: give (N,) or (N, 1), at least one")
        if values.size > len(values):
            raise ValueError(
                f"{path}: {values.shape[1]} labels per image ({name}_labels {values.shape}): only sets with one label "
                "per image can be classified here"
            )
        labels[name] = values.reshape(-1)
        if values.dtype.kind not in "iu" or values.min() < 0:
            raise ValueError(f"{path}: {name}_labels are not class numbers: give integers from 0")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise ValueError(
            f"{path}: {split}_images are {images.dtype} {images.shape}: give uint8 (N, H, W) or (N, H, W, 3); "
            "3D sets are not read"
        )
    if len(images) != len(labels[split]):
        raise ValueError(f"{path}: {len(images)} {split}_images but {len(labels[split])} {split}_labels")
    return images, labels


def _arrays(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return [content[key] for key in keys]
    except FileNotFoundError:
        remedy = "get it from medmnist.com, or set download: true (pip install medmnist)"
        raise ValueError(f"{path}: no such file: {remedy}") from None
    except KeyError as error:
        raise ValueError(f"{path}: not a MedMNIST npz ({error.args[0]}): see docs/data.md for its keys") from None
    except (OSError, ValueError, BadZipFile, zlib.error, EOFError, NotImplementedError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise ValueError(describe(error, path)) from None
        reason = " ".join(str(error).split()) if is_zipfile(path) else "it is not a zip archive, or cut short"
        raise ValueError(f"{path}: not a MedMNIST npz ({reason}): get it again, or write it anew") from None


@cache  # asked for train, val and test, one after the other
def _copies(path: Path, mtime_ns: int) -> list[str]:
    """A line about images that are in two splits; a file that holds over `COMPARED_MB` is not searched for them.

    A published split stays as it is, so such images are not refused.
    """
    keys = [f"{name}_images" for name in SPLITS]
    with ZipFile(path) as content:
        if sum(part.file_size for part in content.infolist() if part.filename[:-4] in keys) > COMPARED_MB * 2**20:
            return []
    try:
        arrays = _arrays(path, keys)
    except ValueError:
        return []  # that split is refused where it is used
    places = [f"{name}_{row:05d}" for name, images in zip(SPLITS, arrays, strict=True) for row in range(len(images))]
    found = groups(pixels_digest(image) for images in arrays for image in images)
    apart = [group for group in found if len({places[row].partition("_")[0] for row in group}) > 1]
    if not apart:
        return []
    first = places[apart[0][0]]
    other = next(places[row] for row in apart[0] if places[row].partition("_")[0] != first.partition("_")[0])
    return [f"{path}: {len(apart)} images are in two splits, such as {first} and {other}"]


def _class_names(path: Path, given: Sequence[str] | None, count: int) -> list[str]:
    known = CLASS_NAMES.get(path.stem.split("_")[0]) if given is None else tuple(given)
    if known is None:
        return [f"class {label}" for label in range(count)]
    if len(known) < count:
        raise ValueError(f"{path}: labels go up to {count - 1}, but there are {len(known)} class names: name {count}")
    return list(known)


def _download(path: Path) -> None:
    flag, _, size = path.stem.partition("_")
    if flag not in CLASS_NAMES or size not in ("", "64", "128", "224"):
        known = ", ".join(CLASS_NAMES)
        raise ValueError(f"{path}: no MedMNIST set is called {path.stem}: one of {known}, larger with _64, _128, _224")
    try:
        import medmnist as package

        fetch = getattr(package, package.INFO[flag]["python_class"])
    except (ImportError, AttributeError) as error:  # without its own requirements the package has no classes
        raise ValueError(f"{path}: download needs the package medmnist ({error}): pip install medmnist") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fetch("train", download=True, root=str(path.parent), size=int(size or 28))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: could not be downloaded ({reason}): get it from medmnist.com") from None
