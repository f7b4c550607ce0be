"""Hair removal, the filter of generated images and boosting, from their command lines."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from image_stores import write_isic
from PIL import Image

from scripts.skin import BoostMetadata, RemoveHair
from utils.experiment.run import main
from utils.recipe.command_line import parse
from utils.recipe.schema import ROOT, Recipe
from utils.runs.comparison import auroc
from utils.skin.boosting import Boosting, Table, compare_models, out_of_fold, patient_folds
from utils.skin.hair import find_hair, paint_over
from utils.skin.perceptual_filter import judge


def skin(seed: int = 0, lesion: bool = True) -> np.ndarray:
    """Skin (256, 256, 3) with a dark round lesion."""
    generator = np.random.default_rng(seed)
    image = np.full((256, 256, 3), (205, 160, 140), np.float32)
    image += cv2.GaussianBlur(generator.normal(0, 1, image.shape).astype(np.float32), (0, 0), 12) * 60
    if lesion:
        cv2.circle(image, (128, 120), 40, (110, 70, 60), -1)
        image = cv2.GaussianBlur(image, (0, 0), 3)
    return np.clip(image + generator.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def hairy(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    for start, end in (((10, 20), (240, 90)), ((30, 230), (220, 150)), ((200, 10), (90, 245)), ((5, 140), (250, 160))):
        cv2.line(image, start, end, (50, 35, 30), 2, cv2.LINE_AA)
    return image


def test_hair_is_painted_over_and_what_is_left_is_nearer_to_the_clean_skin():
    clean = skin()
    dirty = hairy(clean)
    hair = find_hair(dirty)
    treated = paint_over(dirty, hair)
    before, after = (np.abs(image.astype(float) - clean).mean() for image in (dirty, treated))
    assert after < before / 3
    drawn = (dirty != clean).any(2)
    assert hair[drawn].mean() > 0.8
    assert hair[~drawn].mean() < 0.1


def test_a_dark_round_lesion_is_not_taken_for_hair():
    image = skin()
    assert find_hair(image)[80:160, 88:168].mean() < 0.01
    cv2.circle(image, (60, 200), 5, (60, 40, 30), -1)  # a nevus of ten pixels
    assert not find_hair(image)[195:205, 55:65].any()


def test_removing_hair_keeps_the_tree_and_goes_on_past_a_damaged_file(tmp_path, capsys):
    for name, image in (("nv/a.png", hairy(skin(1))), ("nv/b.png", skin(2)), ("mel/c.png", skin(3))):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / name)
    (tmp_path / "in" / "mel" / "broken.png").write_bytes(b"no image")
    assert RemoveHair.main(["--inpath", f"{tmp_path / 'in'}", "--outpath", f"{tmp_path / 'out'}", "--jobs", "1"]) == 1
    assert "broken.png" in capsys.readouterr().out
    assert (tmp_path / "out/nv/b.png").read_bytes() == (tmp_path / "in/nv/b.png").read_bytes()  # no hair: as it was
    assert (tmp_path / "out/nv/a.png").read_bytes() != (tmp_path / "in/nv/a.png").read_bytes()
    assert np.asarray(Image.open(tmp_path / "out_hair.png")).std() > 0
    assert not (tmp_path / "out/mel/broken.png").exists()


def test_far_images_are_unlike_and_near_ones_are_copies():
    generator = np.random.default_rng(0)
    real, held_out = generator.normal(size=(60, 8)), generator.normal(size=(10, 8))
    generated = np.stack([generator.normal(size=8), np.full(8, 9.0), real[7] + 1e-6, held_out[2] + 1e-6])
    verdicts, limits = judge(generated, real, held_out)
    assert [verdict.kind for verdict in verdicts[1:]] == ["unlike", "copy", "held-out copy"]
    assert (verdicts[2].nearest, verdicts[3].nearest_held_out) == (7, 2)
    assert limits.low < verdicts[0].nearest_distance


def test_a_patient_is_in_one_part_of_a_fold_and_a_row_is_scored_by_a_booster_that_did_not_see_it():
    generator = np.random.default_rng(0)
    patients = [f"p{number // 5}" for number in range(100)]
    target = (np.arange(100) % 5 == 0).astype(int)
    folds = list(patient_folds(target, patients, 4, seed=0))
    for fitted, scored in folds:
        assert not {patients[row] for row in fitted} & {patients[row] for row in scored}
    assert sorted(row for _, scored in folds for row in scored) == list(range(100))
    identity = Table(np.eye(100), ())  # tells a row only to a booster that has seen it
    seen = out_of_fold(Boosting(iterations=20), identity, target, folds)
    assert auroc(np.stack([1 - seen, seen], 1), target) < 0.9
    told = Table(target[:, None] + generator.normal(0, 0.1, (100, 1)), ())
    probability = out_of_fold(Boosting(iterations=20), told, target, folds)
    assert auroc(np.stack([1 - probability, probability], 1), target) > 0.95


def test_the_interval_of_a_model_against_itself_is_zero():
    generator = np.random.default_rng(0)
    target = (np.arange(60) % 3 == 0).astype(int)
    probability = np.clip(0.5 * target + generator.uniform(0, 0.5, 60), 0, 1)
    patients = [f"p{number // 6}" for number in range(60)]
    models = {"student": probability, "both": probability.copy()}
    intervals, gains = compare_models(models, target, patients, "student")
    assert (gains["both"].low, gains["both"].high, gains["both"].verdict) == (0.0, 0.0, "no measurable difference")
    assert 0 <= intervals["student"][0] <= intervals["student"][1] <= 0.2


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student of tiny lesions and the folder it lies in."""
    home = tmp_path_factory.mktemp("boosting")
    write_isic(home / "isic", patients=30)
    arguments = [
        f"--config={ROOT / 'configs/isic_student.yaml'}",
        '--network={"name": "squeezenet"}',
        *(f"--data.root={home / 'isic'}", "--data.ratios=[0.4, 0.3, 0.3]", "--data.image_size=32"),
        *("--training.epochs=1", "--training.batch_size=8", "--training.workers=0", f"--output={home / 'run'}"),
    ]
    assert main(parse(Recipe, "test", arguments)) == 0
    return home


def boost(student, out: str, *flags: str) -> int:
    """Runs BoostMetadata, on few folds and trees, and returns its exit status."""
    paths = ["--checkpoint", str(student / "run/best.ckpt"), "--outpath", str(student / out)]
    return BoostMetadata.main([*paths, "--folds", "2", "--iterations", "20", *flags])


def test_boosting_reads_test_once_and_never_fits_on_the_students_patients(student):
    assert boost(student, "boosted") == 0
    result = json.loads((student / "boosted/boosting.json").read_text())
    assert "test" in result
    trained = set(torch.load(student / "run/best.ckpt", weights_only=True)["split"]["train"])
    with (student / "boosted/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert not trained & {row["patient_id"] for row in rows}
    assert boost(student, "boosted", "--iterations", "30") == 2  # test was read with other settings


def test_a_column_that_knows_the_answer_is_refused(student, capsys):
    assert boost(student, "leaky", "--columns", "iddx_1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "iddx_1 is refused" in line
