"""The npz files of a slice store: numpy's in content, read without numpy's reader."""

import zlib
from zipfile import BadZipFile, ZipFile

import numpy as np
import pytest

from datasets.slices import npz
from datasets.slices.npz import pack, read_arrays, read_checksums

ARRAYS = {
    "image": np.random.default_rng(0).normal(0, 300, (7, 9)).astype(np.int16),
    "label": np.eye(7, 9, dtype=np.uint8),
}


@pytest.fixture
def without_numpy(monkeypatch):
    """What is read is not left to numpy."""
    monkeypatch.setattr(npz.np, "load", None)


def written(path, compress=False):
    path.write_bytes(b"".join(pack(ARRAYS, compress)))
    return path


def assert_same(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype and np.array_equal(array, ARRAYS[name])
        array += 1  # it can be written to


@pytest.mark.parametrize("compress", [False, True])
def test_it_reads_what_it_wrote(tmp_path, without_numpy, compress):
    assert_same(read_arrays(written(tmp_path / "a.npz", compress)))


@pytest.mark.parametrize("compress", [False, True])
def test_numpy_reads_the_same(tmp_path, compress):
    with np.load(written(tmp_path / "a.npz", compress)) as opened:
        assert_same(dict(opened))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read_too(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    assert_same(read_arrays(tmp_path / "a.npz"))
    assert read_checksums(tmp_path / "a.npz") is None


@pytest.mark.parametrize("compress", [False, True])
def test_checksums_are_those_of_the_file(tmp_path, compress):
    path = written(tmp_path / "a.npz", compress)
    with ZipFile(path) as content:
        theirs = {part.filename: part.CRC for part in content.infolist()}
    assert read_checksums(path) == {name.removesuffix(".npy"): checksum for name, checksum in theirs.items()}


@pytest.mark.parametrize("compress", [False, True])
def test_a_changed_byte_is_an_error(tmp_path, compress):
    whole = written(tmp_path / "a.npz", compress).read_bytes()
    for place in range(60, 150 if compress else 280, 7):  # of the first array
        (tmp_path / "a.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises((BadZipFile, ValueError, zlib.error)):
            read_arrays(tmp_path / "a.npz")


def test_a_file_that_is_cut_is_an_error(tmp_path):
    whole = written(tmp_path / "a.npz").read_bytes()
    for length in (0, 20, 100, 400, len(whole) - 1):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        assert read_checksums(tmp_path / "a.npz") is None
        with pytest.raises((BadZipFile, EOFError)):
            read_arrays(tmp_path / "a.npz")
