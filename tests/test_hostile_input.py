"""Whatever is given to predict.py: one clear line or a result; nothing executed, nothing overwritten, no half file."""

import io
import json
import tempfile
import tracemalloc
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import igzip
from raw_cases import KITS, hounsfield, save
from test_dicom import write_series
from tiny_checkpoints import CT, MR, labels_of, predict, record, thresholds, voxels
from tiny_checkpoints import save as save_checkpoint

from datasets.volumes.nifti import UnreadableVolumeError, VolumeStream, parse_header
from datasets.volumes.reading import read_image

__all__ = ["thresholds"]  # a fixture
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same examples every time; take it out to look for more
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def content(array: np.ndarray | None = None) -> bytes:
    return nibabel.Nifti1Image(hounsfield(0) // 4 if array is None else array, KITS).to_bytes()


def with_affine(*rows: float) -> bytes:
    data = bytearray(content())
    data[254:256], data[280:328] = b"\1\0", np.array(rows, "<f4").tobytes()  # sform_code and the sform
    return bytes(data)


def endless_affine() -> bytes:
    image = nibabel.Nifti2Image(hounsfield(0), None)
    image.header.set_sform(np.diag([1e200, 1e200, 1e200, 1]), 1)  # in float64, of which a voxel overflows
    return image.header.binaryblock.replace(b"ni2", b"n+2") + bytes(4) + hounsfield(0).tobytes()


def with_dim(*dim: int) -> bytes:
    data = bytearray(content())
    data[40:56] = np.array([*dim, *[1] * (8 - len(dim))], "<i2").tobytes()
    return bytes(data)


def not_a_number() -> bytes:
    values = hounsfield(0).astype(np.float32)
    values[2, 3, 4] = np.nan
    return content(values)


def infinite() -> bytes:
    values = hounsfield(0).astype(np.float64)
    values[0, 0, 0] = -np.inf
    return content(values)


HOSTILE = {
    "truncated gzip": (igzip.compress(content())[:-300], "truncated or damaged"),
    "gzip without its checksum": (igzip.compress(content())[:-4], "truncated or damaged"),
    "damaged gzip": (igzip.compress(content())[:700] + b"\xff" * 50 + igzip.compress(content())[750:], "damaged"),
    "truncated header": (content()[:100], "truncated or damaged"),
    "truncated voxels": (content()[:-1], "truncated or damaged"),
    "zip bomb": (igzip.compress(content() + bytes(1 << 26)), "goes on after the 1792 bytes"),  # 352 + 720 x 2
    "more declared than there can be": (igzip.compress(with_dim(3, 2000, 2000, 2000)), "the file holds at most"),
    "NaN": (not_a_number(), "holds NaN or infinite values"),
    "infinite": (infinite(), "holds NaN or infinite values"),
    "four axes": (content(np.zeros((4, 5, 6, 3), np.int16)), "choose one with --channel 0..2"),
    "five axes": (content(np.zeros((4, 5, 6, 1, 3), np.int16)), "give a three-dimensional volume"),
    "two axes": (content(np.zeros((40, 50), np.int16)), "give a three-dimensional volume"),
    "no voxel": (with_dim(3, 0, 10, 12), "give a three-dimensional volume"),
    "a negative size": (with_dim(3, 6, -10, 12), "give a three-dimensional volume"),
    "colors": (content(np.zeros((4, 5, 6), [(c, "u1") for c in "RGB"])), "save it as one number per voxel"),
    "complex": (content(np.zeros((4, 5, 6), np.complex64)), "save it as one number per voxel"),
    "a singular affine": (with_affine(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), "affine is singular"),
    "an affine of NaN": (with_affine(*[np.nan] * 12), "affine is singular or not finite"),
    "an endless affine": (endless_affine(), "affine is singular or not finite"),
    "wrong magic": (content().replace(b"n+1\0", b"n?1\0"), "give a .nii or .nii.gz file"),
    "a header of a pair": (content().replace(b"n+1\0", b"ni1\0"), "convert the two to one .nii.gz"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(400), "give a .nii or .nii.gz file"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_volume_is_one_clear_line(tmp_path, thresholds, capsys, kind):
    data, said = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.nii.gz").write_bytes(data)
    (tmp_path / "in/good.nii.gz").write_bytes(content())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert predict(thresholds, tmp_path / "in", tmp_path / "out") == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "bad.nii.gz: " in line and said in line and "report this" not in line
    assert "bad.nii.gz" not in printed.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.nii.gz", "predictions.json"]
    assert (tmp_path / "in/bad.nii.gz").read_bytes() == data
    assert np.array_equal(voxels(tmp_path / "out/good.nii.gz"), labels_of(hounsfield(0) // 4))


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(HOSTILE["zip bomb"][0])
    with VolumeStream(tmp_path / "a.nii.gz") as stream:
        parse_header(stream)
        with pytest.raises(UnreadableVolumeError, match="goes on after"):
            stream.finish()
        assert stream.position < 4 << 20  # of 64 MB


def test_no_room_is_made_for_what_the_file_cannot_hold(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(HOSTILE["more declared than there can be"][0])
    tracemalloc.start()
    with pytest.raises(UnreadableVolumeError, match="holds at most"):
        read_image(tmp_path / "a.nii.gz", "CT")
    assert tracemalloc.get_traced_memory()[1] < 20e6  # 16 GB are declared
    tracemalloc.stop()


def test_a_bomb_that_keeps_its_promise_is_stopped_by_the_memory_limit(tmp_path, thresholds, capsys):
    packed = igzip.compress(with_dim(3, 300, 300, 300)[:352] + bytes(300**3 * 2))
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert predict(thresholds, tmp_path / "a.nii.gz", tmp_path / "out", "--memory", "0.05") == 1
    assert "takes 0.1 GB of memory, --memory allows 0.1: raise it" in capsys.readouterr().err
    assert len(packed) < 300_000 and not list(tmp_path.glob("out/*"))


def test_a_form_that_is_not_used_may_be_anything(tmp_path, thresholds):
    data = bytearray(content())
    data[80:84], data[252:254] = (
        np.array([np.inf], "<f4").tobytes(),
        b"\xff\xff",
    )  # pixdim, qform_code; the sform counts
    (tmp_path / "a.nii").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert predict(thresholds, tmp_path / "a.nii", tmp_path / "out") == 0
    assert np.allclose(nibabel.load(tmp_path / "out/a.nii.gz").affine, KITS)  # the sform


# -- fuzzing ---------------------------------------------------------------------------------------------------------


def outcome(checkpoint: Path, source: Path, folder: Path) -> tuple[int, list[str]]:
    """Exit code of predict.py and the lines it printed about what is wrong; asserts that no half file is left."""
    out, streams = folder / "out", (io.StringIO(), io.StringIO())
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        code = predict(checkpoint, source, out)
    lines = "".join(stream.getvalue() for stream in streams).splitlines()
    wrong = [line for line in lines if str(source) in line and not line.startswith("note: ")]
    files = {path.name for path in out.glob("*")}  # a folder that stayed empty is removed again
    assert code in (0, 1) and len(wrong) == code
    assert not any("report this" in line or "Traceback" in line or "Warning" in line for line in lines), lines
    assert files == ({f"{source.name.removesuffix('.nii.gz')}.nii.gz", "predictions.json"} if code == 0 else set())
    return code, wrong


def as_nibabel_reads(data: bytes) -> nibabel.Nifti1Image | None:
    """None for a header that it refuses; some of those have a meaning all the same, such as vox_offset 0."""
    try:
        return nibabel.Nifti1Image.from_bytes(data)
    except (ValueError, KeyError, TypeError, OverflowError, nibabel.spatialimages.HeaderDataError):
        return None


EDITS = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), max_size=6)
FIELDS = st.tuples(  # whole fields: type, sizes, scale, offset and the two forms
    st.sampled_from(
        [40, 42, 44, 46, 70, 72, 76, 80, 84, 88, 108, 112, 116, 252, 254, 256, 260, 264, 280, 284, 300, 320]
    ),
    st.sampled_from(
        [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\x01\0", b"\0\0\x80\x3f"]
    ),
)


@pytest.mark.parametrize("preprocessing", [CT, MR], ids=["CT", "MR"])
@FUZZ
@given(edits=EDITS, fields=st.lists(FIELDS, max_size=2), length=st.none() | st.integers(0, 1800), packed=st.booleans())
def test_any_header_gives_a_line_or_a_result(thresholds, preprocessing, edits, fields, length, packed):
    data = bytearray(content())
    for place, value in edits:
        data[place] = value
    for place, value in fields:
        data[place : place + 4] = value
    data = bytes(data[:length])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = thresholds
        if preprocessing is MR:
            whole = torch.load(thresholds, weights_only=True)
            checkpoint = save_checkpoint(folder / "mr.ckpt", whole["network"], whole["weights"], MR)
        source = folder / "a.nii.gz"
        source.write_bytes(igzip.compress(data) if packed else data)
        before = source.read_bytes()
        code, _ = outcome(checkpoint, source, folder)
        assert source.read_bytes() == before
        if code == 0:
            json.loads((folder / "out/predictions.json").read_text(), parse_constant=pytest.fail)
            result = nibabel.load(folder / "out/a.nii.gz")
            if theirs := as_nibabel_reads(data):
                assert result.shape == theirs.shape and np.array_equal(result.affine, theirs.affine, equal_nan=True)


@FUZZ
@given(cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 1999), st.integers(1, 255)), max_size=3))
def test_any_damage_to_a_gzip_gives_a_line_or_the_right_result(thresholds, cut, flips):
    data = bytearray(igzip.compress(content()))
    for place, value in flips:
        data[place % len(data)] ^= value
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "a.nii.gz")
        source.write_bytes(data if cut > 1500 else data[:cut])
        if (
            outcome(thresholds, source, Path(name))[0] == 0
        ):  # only where the header of the gzip was hit, not what it holds
            assert np.array_equal(voxels(Path(name, "out/a.nii.gz")), labels_of(hounsfield(0) // 4))


@settings(FUZZ, max_examples=25)
@given(cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(0, 2999), st.integers(1, 255)), max_size=3))
def test_any_damage_to_a_slice_gives_a_line_or_a_result(thresholds, cut, flips):
    with tempfile.TemporaryDirectory() as name:
        folder = write_series(Path(name, "series"))
        data = bytearray((folder / "3.dcm").read_bytes())
        for place, value in flips:
            data[place % len(data)] ^= value
        (folder / "3.dcm").write_bytes(data if cut > 1500 else data[:cut])
        outcome(thresholds, folder, Path(name))


def test_a_list_of_anything_is_a_line_or_cases(tmp_path, thresholds, capsys):
    save(tmp_path / "a.nii.gz", hounsfield(0))
    for number, rows in enumerate(
        (b"\xff\xfe\0", b"case,image\na", b'case,image\n"a\n', b"case,image\na\0b,a.nii.gz\n")
    ):
        (tmp_path / f"{number}.csv").write_bytes(rows)
        assert predict(thresholds, tmp_path / f"{number}.csv", tmp_path / "out") == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "x.csv").write_text("case,image\na,a.nii.gz\nb,missing.nii.gz\n")
    assert predict(thresholds, tmp_path / "x.csv", tmp_path / "out") == 1
    assert list(record(tmp_path / "out")) == ["a"]
