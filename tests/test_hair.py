"""Hair removal: hairs go, what is round stays, a tree of images comes out, and a second run continues."""

import csv
from io import BytesIO
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image, ImageDraw

from datasets.images.dataset import ImageOptions
from datasets.images.isic import isic
from scripts.skin.RemoveHair import main
from tests.image_stores import write_isic
from utils.skin.hair import find_hair, paint_over

SKIN, LESION, HAIR = (205, 160, 140), (120, 80, 60), (50, 40, 35)
FINE = 8  # hairs are drawn so many times larger, for soft edges


def skin(side: int, radius: float = 0.2, seed: int = 0, noise: float = 3.0) -> np.ndarray:
    """Uneven, noisy skin with a round lesion of `radius` (of the side) in its middle, (side, side, 3) uint8."""
    random = np.random.default_rng(seed)
    uneven = cv2.resize(random.normal(0, 6, (8, 8)), (side, side), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.clip(radius * side - np.hypot(rows, columns) + 0.5, 0, 1)[..., None]
    image = (1 - inside) * np.array(SKIN) + inside * np.array(LESION) + uneven[..., None]
    image += cv2.GaussianBlur(random.normal(0, noise, image.shape), (0, 0), 0.6)
    return image.clip(0, 255).astype(np.uint8)


def hairs(side: int, count: int = 6, width: float = 0.008, seed: int = 0) -> np.ndarray:
    """How much of each pixel slightly curved hairs of `width` (of the side) cover, (side, side) in 0..1."""
    random = np.random.default_rng(seed)
    drawing = Image.new("L", (FINE * side, FINE * side))
    for _ in range(count):
        direction = random.uniform(0, 2 * np.pi) + np.linspace(0, random.uniform(-1, 1), 100)
        steps = np.stack([np.cos(direction), np.sin(direction)], 1) * 0.7 / 100
        path = (random.uniform(0.2, 0.8, 2) - steps.sum(0) / 2 + steps.cumsum(0)) * FINE * side
        ImageDraw.Draw(drawing).line([tuple(point) for point in path], 255, round(FINE * side * width))
    return np.asarray(drawing.resize((side, side), Image.Resampling.BOX)) / 255


def covered(image: np.ndarray, cover: np.ndarray, color=HAIR) -> np.ndarray:
    share = 0.8 * cover[..., None]
    return ((1 - share) * image + share * np.array(color)).astype(np.uint8)


def error(image: np.ndarray, clean: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(image.astype(float) - clean)[where].mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("side", [128, 256, 450])
def test_painting_brings_an_image_five_times_closer_to_the_one_without_hair(side, seed):
    clean, cover = skin(side, seed=seed), hairs(side, seed=seed)
    hairy = covered(clean, cover)
    painted = paint_over(hairy, find_hair(hairy))
    everywhere = np.ones_like(cover, bool)
    assert error(hairy, clean, cover > 0.1) > 5 * error(painted, clean, cover > 0.1)
    assert error(hairy, clean, everywhere) > 2 * error(painted, clean, everywhere)


@pytest.mark.parametrize("noise", [0, 3, 8])
@pytest.mark.parametrize("side", [64, 131, 256, 700])
def test_an_image_without_hair_stays_as_it_is(side, noise):
    for seed in range(3):
        image = skin(side, seed=seed, noise=noise)
        assert not find_hair(image).any()
        assert paint_over(image, find_hair(image)) is image


@pytest.mark.parametrize("radius", [2, 4, 6, 9, 13, 18, 19, 25, 40, 90])
def test_a_dark_round_lesion_of_any_size_is_not_hair(radius):
    image = skin(256, radius / 256)
    assert not find_hair(image).any()
    # What a plain black-hat does: 17x17 spans a disc of radius 8, and of 12 in its round corners.
    if radius in (4, 6, 9):
        blackhat = cv2.morphologyEx(image[..., 0], cv2.MORPH_BLACKHAT, np.ones((17, 17), np.uint8))
        rows, columns = np.mgrid[:256, :256] - 127.5
        assert (blackhat > 12)[np.hypot(rows, columns) < radius - 1].mean() > 0.9


def test_a_lesion_keeps_its_color_under_hairs_that_cross_it():
    clean, cover = skin(256), hairs(256, count=10, seed=3)
    hairy = covered(clean, cover)
    painted = paint_over(hairy, find_hair(hairy))
    rows, columns = np.mgrid[:256, :256] - 127.5
    lesion = np.hypot(rows, columns) < 46
    assert (cover[lesion] > 0.1).mean() > 0.02  # some do
    assert np.abs(painted[lesion].mean(0) - clean[lesion].mean(0)).max() < 2
    assert error(painted, clean, lesion) < 2


def test_red_vessels_are_not_hair():
    image = covered(skin(256, radius=0), hairs(256), color=(205, 60, 60))  # dark in green and blue, not in red
    assert find_hair(image).mean() < 0.002
    assert find_hair(image[..., ::-1]).mean() > 0.02


def test_gray_images_are_treated_alike():
    hairy = covered(skin(256), hairs(256))
    gray = hairy[..., 0]
    assert np.array_equal(find_hair(gray), find_hair(hairy))
    assert paint_over(gray, find_hair(gray)).shape == (256, 256)


def test_the_same_hair_is_found_in_an_image_twice_as_large():
    small, large = (find_hair(covered(skin(side, noise=0), hairs(side))) for side in (256, 512))
    shrunk = cv2.resize(large.astype(np.uint8), (256, 256), interpolation=cv2.INTER_AREA) > 0
    assert (small & shrunk).sum() > 0.8 * (small | shrunk).sum()


def test_on_tiny_images_nothing_is_looked_for():
    assert not find_hair(covered(skin(63), hairs(63, width=0.03))).any()
    assert find_hair(covered(skin(64), hairs(64, width=0.03))).any()


# The script


def write(file: Path, image: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, **({"quality": 95} if file.suffix == ".jpg" else {}))
    return file


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two hairy images, one without hair, in two folders, and a file that is no image."""
    root = tmp_path / "in"
    for number, name in enumerate(("train/nevus/a.jpg", "test/melanoma/b.png")):
        write(root / name, covered(skin(128, seed=number), hairs(128, seed=number)))
    write(root / "train/melanoma/c.jpg", skin(128))
    (root / "notes.txt").write_text("no image")
    return root


def run(source: Path, target: Path, *flags: str) -> int:
    return main(["--inpath", str(source), "--outpath", str(target), "--jobs", "2", *flags])


def images_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_the_same_tree_comes_out_without_hair(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tree, out) == 0
    assert images_of(out) == ["test/melanoma/b.png", "train/melanoma/c.jpg", "train/nevus/a.jpg"]
    assert "found in 2" in capsys.readouterr().out
    clean = skin(128, seed=1)
    cover = hairs(128, seed=1) > 0.1
    before, after = (np.asarray(Image.open(root / "test/melanoma/b.png")) for root in (tree, out))
    assert error(before, clean, cover) > 5 * error(after, clean, cover)
    same = "train/melanoma/c.jpg"
    assert (out / same).read_bytes() == (tree / same).read_bytes()
    with (tmp_path / "out_hair.csv").open() as lines:
        shares = {row["image"]: float(row["hair"]) for row in csv.DictReader(lines)}
    assert shares[same] == 0 < min(shares["train/nevus/a.jpg"], shares["test/melanoma/b.png"])


def test_the_sheet_shows_the_hair_found(tree, tmp_path):
    run(tree, tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out_hair.png"))
    red = (sheet == (255, 0, 0)).all(2)
    assert red.any() and not red[:, :154].any()  # not in the first column, of the originals


def test_a_second_run_treats_only_what_is_not_there(tree, tmp_path, capsys):
    out = tmp_path / "out"
    run(tree, out)
    before = {name: (out / name).stat().st_mtime_ns for name in images_of(out)}
    write(tree / "train/nevus/new.jpg", skin(128, seed=5))
    (out / "test/melanoma/b.png").unlink()
    capsys.readouterr()
    assert run(tree, out) == 0
    assert "4 (2 treated now, 2 kept" in capsys.readouterr().out
    for name in ("train/melanoma/c.jpg", "train/nevus/a.jpg"):
        assert (out / name).stat().st_mtime_ns == before[name]
    assert len((tmp_path / "out_hair.csv").read_text().splitlines()) == 5


def test_settings_are_not_mixed(tree, tmp_path, capsys):
    out = tmp_path / "out"
    run(tree, out)
    assert run(tree, out, "--contrast", "20") == 2
    assert "made with --contrast 12" in capsys.readouterr().err
    assert run(tree, out, "--contrast", "20", "--overwrite") == 0


def test_a_bad_file_is_told_and_the_rest_finish(tree, tmp_path, capsys):
    (tree / "train/nevus/bad.jpg").write_bytes(b"no image")
    assert run(tree, tmp_path / "out") == 1
    assert "train/nevus/bad.jpg: unreadable image" in capsys.readouterr().out
    assert len(images_of(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("out", "flags", "said"),
    [
        ("in/out", [], "lie in each other"),
        (".", [], "lie in each other"),
        ("out", ["--contrast", "0"], "--contrast 0"),
        ("out", ["--jobs", "0"], "--jobs 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tree, tmp_path, capsys, out, flags, said):
    assert run(tree, tmp_path / out, *flags) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_an_empty_folder_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "holds no image" in capsys.readouterr().err


def test_images_in_the_hdf5_of_isic_become_the_folder_a_recipe_reads(tmp_path):
    source, out = write_isic(tmp_path / "in", patients=10, lesions=2), tmp_path / "out"
    encoded = BytesIO()
    Image.fromarray(covered(skin(128), hairs(128))).save(encoded, "JPEG")
    with h5py.File(source / "train-image.hdf5", "r+") as store:
        before = {key: np.asarray(value).tobytes() for key, value in store.items()}
        del store["ISIC_0000003"]
        store["ISIC_0000003"] = np.void(encoded.getvalue())
    assert run(source, out) == 0
    for key, content in before.items():
        same = (out / f"train-image/image/{key}.jpg").read_bytes() == content
        assert same == (key != "ISIC_0000003")
    splits = {split: isic(str(out), split, ImageOptions(image_size=32)) for split in ("train", "val", "test")}
    assert sum(len(dataset.cases) for dataset in splits.values()) == 20
    painted = np.asarray(Image.open(out / "train-image/image/ISIC_0000003.jpg"))
    cover = hairs(128) > 0.1
    assert error(covered(skin(128), hairs(128)), skin(128), cover) > 5 * error(painted, skin(128), cover)
