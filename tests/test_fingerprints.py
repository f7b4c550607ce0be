"""What data hold: digests by case that see every change of content, and no change of place or format."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets.fingerprints import fingerprint
from datasets.images.dataset import ImageOptions
from datasets.images.folder import image_folder
from datasets.slices.dataset import SliceDataset
from datasets.slices.fingerprints import store_fingerprint
from datasets.slices.store import read_index, read_slice, write_slice
from tests.conftest import stored


def digests(root, split="train", **arguments):
    return SliceDataset(root, split, **arguments).digests


def test_a_label_that_was_corrected_changes_the_targets_of_its_case_only(slice_store):
    before = digests(slice_store)
    image, label = stored(slice_store, "case_00001", 2)
    np.savez(slice_store / "case_00001/0002.npz", image=image, label=np.minimum(label, 1))
    after = digests(slice_store)
    assert [case for case in before if before[case] != after[case]] == ["case_00001"]
    assert before["case_00001"][0] == after["case_00001"][0]
    assert before["case_00001"][1] != after["case_00001"][1]


def test_other_intensities_change_the_images_of_their_case_only(slice_store):
    before = digests(slice_store)
    image, label = stored(slice_store, "case_00000", 0)
    np.savez(slice_store / "case_00000/0000.npz", image=image + 1, label=label)
    after = digests(slice_store)
    assert before["case_00000"][0] != after["case_00000"][0]
    assert before["case_00000"][1] == after["case_00000"][1]
    assert before["case_00001"] == after["case_00001"]


def test_the_place_and_the_thinning_change_nothing_the_task_does(slice_store, tmp_path):
    before = digests(slice_store)
    shutil.copytree(slice_store, tmp_path / "elsewhere/store")
    assert digests(tmp_path / "elsewhere/store", thin_background=0.0) == before
    assert store_fingerprint(tmp_path / "elsewhere/store") == store_fingerprint(slice_store)
    assert digests(slice_store, task="all")["case_00000"][1] != before["case_00000"][1]


def test_targets_have_one_digest_in_both_formats_compressed_or_not(slice_store, tmp_path):
    before = digests(slice_store)
    for compress in (True, False):
        for record in read_index(slice_store):
            write_slice(record.path, *read_slice(record.path), compress=compress)
        assert digests(slice_store) == before
    for record in read_index(slice_store):
        write_slice(record.path.with_suffix(".png"), *read_slice(record.path))
        record.path.unlink()
    index = slice_store / "index.csv"
    index.write_text(index.read_text().replace(".npz", ".png"))
    after = digests(slice_store)
    assert {case: targets for case, (_, targets) in after.items()} == {case: t for case, (_, t) in before.items()}


def test_a_store_that_was_split_again_has_another_fingerprint(slice_store):
    before = store_fingerprint(slice_store)
    index = slice_store / "index.csv"
    index.write_text("".join(line.replace(",test,", ",val,") for line in index.read_text().splitlines(keepends=True)))
    assert store_fingerprint(slice_store) != before


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "is damaged"), (None, "is missing"), (b"PK\3\4 cut", "is damaged")]
)
def test_a_slice_that_is_missing_or_damaged_is_named(slice_store, content, what):
    file = slice_store / "case_00002/0003.npz"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"case_00002/0003\.npz: {what}: slice case_00002 again"):
        _ = SliceDataset(slice_store, "train", cache=False).digests


def test_images_are_known_by_their_files_and_classes(tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("nevus", "melanoma"):
            for number in range(2):
                file = tmp_path / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)

    def content(split="test"):
        return image_folder(str(tmp_path), split, ImageOptions(image_size=32)).digests

    before = content()
    file = tmp_path / "test/nevus/0.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    after = content()
    assert [case for case in before if before[case] != after[case]] == ["test/nevus/0.png"]
    assert before["test/nevus/0.png"][1] == after["test/nevus/0.png"][1] == after["test/nevus/1.png"][1]
    assert fingerprint(before, ["a", "b"]) != fingerprint(after, ["a", "b"])
    assert fingerprint(before, ["a", "b"]) != fingerprint(before, ["a", "c"])
    assert fingerprint(dict(reversed(before.items())), ["a"]) == fingerprint(before, ["a"])


def test_digests_are_plain_values(slice_store):
    assert json.loads(json.dumps(digests(slice_store))) == digests(slice_store)
