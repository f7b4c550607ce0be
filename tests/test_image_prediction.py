"""predict.py with a checkpoint that classifies images."""

import csv

import pytest
import torch
from image_stores import write_image
from tiny_checkpoints import predict
from tiny_checkpoints import save as save_checkpoint

from datasets.images.decoding import decode
from datasets.images.transforms import Preparation
from networks import NETWORKS
from utils.training import checkpoints


@pytest.fixture
def classifier(tmp_path):
    """A checkpoint of a network that classifies 32 x 32 color images."""
    torch.manual_seed(0)
    section = {"name": "squeezenet", "num_classes": 3}
    preprocessing = {"kind": "image", "class_names": ["nevus", "melanoma", "keratosis"], "image_size": 32}
    preprocessing |= {"in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "modality": None}
    weights = NETWORKS["squeezenet"](num_classes=3).state_dict()
    return save_checkpoint(tmp_path / "images.ckpt", section, weights, preprocessing)


def test_a_folder_of_images_becomes_a_table_of_probabilities(tmp_path, classifier, capsys):
    for seed, name in enumerate(("a", "deep/b", "c")):
        write_image(tmp_path / f"in/{name}.png", 0, seed)
    (tmp_path / "in/bad.jpg").write_bytes(b"no image")
    assert predict(classifier, tmp_path / "in", tmp_path / "out", "--batch_size", "2") == 1
    assert "bad.jpg: unreadable image" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert sorted(row["image"] for row in rows) == ["a.png", "c.png", "deep/b.png"]
    network = checkpoints.rebuild(checkpoints.load(classifier))
    preparation = Preparation(32, 3, (0.5,) * 3, (0.25,) * 3)
    for row in rows:
        image = preparation.normalize(preparation.resize(decode(tmp_path / "in" / row["image"], "image")))
        with torch.no_grad():
            shares = network(image[None]).softmax(1)[0]
        names = ["nevus", "melanoma", "keratosis"]
        assert [float(row[name]) for name in names] == pytest.approx(shares.tolist(), abs=1e-5)
        assert row["prediction"] == names[int(shares.argmax())]


def test_a_table_is_not_overwritten_unasked_and_flags_of_volumes_are_refused(tmp_path, classifier, capsys):
    image = write_image(tmp_path / "a.png", 0, 0)
    assert predict(classifier, image, tmp_path / "out", "--largest") == 2
    assert predict(classifier, image, tmp_path / "out") == 0
    assert predict(classifier, image, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "--largest" in error and "pass --overwrite" in error
    assert predict(classifier, image, tmp_path / "out", "--overwrite", "--flip") == 0
