"""A slice store of a spacing in mm: what is stored, kept of the source, continued and refused."""

import json

import nibabel
import numpy as np
import pytest

from datasets.slices.dataset import SliceDataset
from datasets.slices.fingerprints import store_fingerprint
from datasets.slices.source_labels import SOURCE_LABELS, SourceLabels
from datasets.slices.store import is_whole, read_case, read_index, read_slice
from datasets.volumes.geometry import to_slices
from tests.raw_cases import hounsfield, kits_case, label_of, make, msd

ASKED = ("--spacing", "1.6", "--slice_spacing", "5")


@pytest.fixture
def raw(tmp_path):
    for number in range(3):
        kits_case(tmp_path / "raw", number, image=hounsfield(number, (7, 10, 12)), label=label_of((7, 10, 12)))
    return tmp_path / "raw"


def test_slices_are_stored_at_the_spacing_and_the_source_labels_beside_them(raw, tmp_path, capsys):
    assert make(raw, tmp_path / "out", *ASKED) == 0
    assert "spacing 1.6 mm in-plane, slabs of 5 mm: 3 of 3 cases were resampled" in capsys.readouterr().out
    folder = tmp_path / "out" / "case_00000"
    geometry, manifest = (json.loads(file.read_text()) for file in (folder / "geometry.json", folder / "case.json"))
    assert geometry["stored"] == {"shape": [4, 5, 6], "slab": 2} and geometry["shape"] == [7, 10, 12]
    assert manifest["settings"]["spacing"] == 1.6 and manifest["settings"]["slice_spacing"] == 5
    records = [record for record in read_index(tmp_path / "out") if record.case == "case_00000"]
    stored = [read_slice(record.path) for record in records]
    assert [image.shape for image, _ in stored] == [(5, 6)] * 4 and stored[0][0].dtype == np.int16
    assert [list(record.labels) for record in records] == [np.unique(label[label > 0]).tolist() for _, label in stored]
    source = to_slices(label_of((7, 10, 12)), geometry["axes"], geometry["flips"])
    assert np.array_equal(SourceLabels(folder).read(0, 7), source)
    assert np.array_equal(SourceLabels(folder).read(4, 6), source[4:6])
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (described["spacing"], described["slice_spacing"]) == (1.6, 5.0)
    preprocessing = SliceDataset(tmp_path / "out", "train", crop=32).preprocessing
    assert (preprocessing["spacing"], preprocessing["slice_spacing"]) == (1.6, 5.0)


def test_what_is_asked_at_the_sources_own_spacing_is_stored_as_it_is(raw, tmp_path):
    assert make(raw, tmp_path / "native") == 0 and make(raw, tmp_path / "same", "--spacing", "0.8") == 0
    for name in ("geometry.json", "0002.npz"):
        files = [tmp_path / out / "case_00001" / name for out in ("native", "same")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "same" / "case_00001" / SOURCE_LABELS).exists()
    native = [json.loads(path.read_text()) for path in (tmp_path / "native").rglob("*.json")]
    assert not any("spacing" in each.get("settings", {}) or "stored" in each for each in native)
    assert SliceDataset(tmp_path / "native", "train").preprocessing["spacing"] is None


def test_the_same_command_keeps_its_cases_and_another_spacing_is_refused(raw, tmp_path, capsys):
    out = tmp_path / "out"
    make(raw, out, *ASKED)
    capsys.readouterr()
    assert make(raw, out, *ASKED) == 0 and "0 sliced now, 3 kept" in capsys.readouterr().out
    for flags in ((), ("--spacing", "2", *ASKED[2:]), ASKED[:2]):
        assert make(raw, out, *flags) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "holds" in error and "choose another --outpath" in error
    (out / "dataset.json").unlink()  # of a run that was killed before it listed its cases
    assert make(raw, out, "--spacing", "2") == 0 and "3 sliced now" in capsys.readouterr().out


def test_a_case_without_its_source_labels_is_sliced_again_and_other_source_labels_are_other_data(raw, tmp_path, capsys):
    out = tmp_path / "out"
    make(raw, out, *ASKED)
    before, file = store_fingerprint(out), out / "case_00001" / SOURCE_LABELS
    whole = file.read_bytes()
    file.unlink()
    assert not is_whole(file.parent, read_case(file.parent))
    with pytest.raises(ValueError, match="is missing: slice case_00001 again"):
        SourceLabels(file.parent)
    capsys.readouterr()
    assert make(raw, out, *ASKED) == 0 and "1 sliced now, 2 kept" in capsys.readouterr().out
    assert file.read_bytes() == whole and store_fingerprint(out) == before
    file.write_bytes((out / "case_00000" / SOURCE_LABELS).read_bytes()[:-40])
    with pytest.raises(ValueError, match="is damaged"):
        store_fingerprint(out)
    label = label_of((7, 10, 12))
    label[5, 5, 5] = 1  # too little to be seen at the spacing
    kits_case(raw, 1, image=hounsfield(1, (7, 10, 12)), label=label)
    assert make(raw, out, *ASKED) == 0 and store_fingerprint(out) != before


@pytest.mark.parametrize("forms", [1, 0])
def test_a_case_without_a_spacing_is_left_out(raw, tmp_path, capsys, forms):
    """KiTS with an identity affine has lost its spacing; so has any volume where neither form is set."""
    affine = np.diag([-1.0, 1, 1, 1])
    for file in kits_case(raw, 1, affine=affine).iterdir():
        image = nibabel.load(file)
        image.set_sform(affine, forms)
        image.set_qform(affine, 0)
        nibabel.save(image, file)
    assert make(raw, tmp_path / "out", "--spacing", "1.6") == 1
    assert "has no spacing in mm" in capsys.readouterr().out
    assert {record.case for record in read_index(tmp_path / "out")} == {"case_00000", "case_00002"}
    assert make(raw, tmp_path / "native") == 0


def test_mr_is_stored_as_float32_and_not_as_png(tmp_path, capsys):
    random = np.random.default_rng(0)
    raw = msd(tmp_path / "raw", {name: random.integers(0, 900, (12, 10, 6)).astype(np.int16) for name in "abc"})
    assert make(raw, tmp_path / "out", "--spacing", "1.6", dataset="msd") == 0
    assert {read_slice(record.path)[0].dtype for record in read_index(tmp_path / "out")} == {np.dtype(np.float32)}
    capsys.readouterr()
    assert make(raw, tmp_path / "png", "--spacing", "1.6", "--format", "png", dataset="msd") == 1
    assert "use --format npz" in capsys.readouterr().out
