import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.phantom.drawing import draw_phantom, render_around
from datasets.phantom.files import write_kits_case, write_lits_case
from scripts import MakePhantom

ROOT = Path(__file__).resolve().parents[1]
REAL_LABELS = ROOT.parent / "shared" / "data" / "kits19_labels"
KIDNEY_CASES = range(8)


@pytest.fixture(scope="module")
def kidneys():
    return [draw_phantom(0, case, slices=24, size=96) for case in KIDNEY_CASES]


@pytest.fixture(scope="module")
def livers():
    return [draw_phantom(0, case, slices=24, size=96, organ="liver") for case in range(6)]


def best_interval_dice(phantoms, target=2):
    """Tumor Dice of the best HU interval (single thresholds either way included) within the labeled region.

    Returns the mean over cases of the best interval common to all, and of the best interval of each case.
    """
    edges = np.arange(-200, 401, 10)
    tables = []
    for phantom in phantoms:
        region = phantom.label > 0
        hu = np.clip(phantom.image, -199, 399)
        hit = np.histogram(hu[region & (phantom.label == target)], edges)[0]
        miss = np.histogram(hu[region & (phantom.label != target)], edges)[0]
        hits, misses = (np.concatenate([[0], np.cumsum(part)]) for part in (hit, miss))
        inside = hits[None] - hits[:, None]
        predicted = inside + misses[None] - misses[:, None]
        dice = 2 * inside / np.maximum(hit.sum() + predicted, 1)
        tables.append(np.triu(dice))
    return np.mean(tables, axis=0).max(), np.mean([table.max() for table in tables])


def test_the_interval_search_finds_a_tumor_that_a_threshold_separates(kidneys):
    phantom = kidneys[0]
    easy = type(phantom)(np.where(phantom.label == 2, 300, 100).astype(np.int16), phantom.label, phantom.spacing)
    assert best_interval_dice([easy]) == (1.0, 1.0)


def test_no_hu_threshold_finds_the_kidney_tumors(kidneys):
    together, each = best_interval_dice(kidneys)
    assert together < 0.5
    assert each < 0.5  # not even one chosen per case by looking at the answer


def test_no_hu_threshold_finds_the_liver_tumors(livers):
    together, each = best_interval_dice([p for p in livers if (p.label == 2).any()])
    assert together < 0.5
    assert each < 0.5


def test_the_same_seed_draws_the_same_case_and_another_seed_or_number_another():
    first, again = draw_phantom(3, 1, 6, 32), draw_phantom(3, 1, 6, 32)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)
    for seed, case in ((4, 1), (3, 2)):
        assert not np.array_equal(first.image, draw_phantom(seed, case, 6, 32).image)


def test_every_case_has_kidneys_and_a_tumor_in_plausible_hu(kidneys):
    for phantom in kidneys:
        image, label = phantom.image, phantom.label
        assert image.dtype == np.int16 and label.dtype == np.uint8 and image.shape == label.shape == (24, 96, 96)
        assert set(np.unique(label)) == {0, 1, 2}
        assert image.min() >= -1024 and np.median(image[:, :3]) < -950  # air in front of the patient
        assert 60 < np.median(image[label == 1]) < 260
        assert 0 < np.median(image[label == 2]) < 220
        assert (image > 250).mean() > 0.003  # bone
        assert ((image > -130) & (image < -70)).mean() > 0.05  # fat
        milliliters = np.bincount(label.ravel(), minlength=3)[1:] * np.prod(phantom.spacing) / 1000
        assert 150 < milliliters[0] < 600 and 0.5 < milliliters[1] < 200


def test_contrast_spacing_and_noise_vary_between_cases(kidneys):
    assert len({phantom.spacing for phantom in kidneys}) == len(kidneys)
    assert np.ptp([np.median(p.image[p.label == 1]) for p in kidneys]) > 20
    spread = [np.diff(p.image[:, 60:70, 40:56].astype(float), axis=2).std() for p in kidneys]
    assert max(spread) > 1.2 * min(spread)


def test_noise_spans_neighboring_pixels(kidneys):
    image = kidneys[0].image.astype(float)
    fat = (image > -125) & (image < -75)
    pairs = fat[..., 1:] & fat[..., :-1]
    left, right = image[..., :-1][pairs], image[..., 1:][pairs]
    assert np.corrcoef(left, right)[0, 1] > 0.15


def test_tumor_free_is_the_share_of_cases_without_tumor():
    assert not (draw_phantom(0, 0, 12, 48, tumor_free=1.0).label == 2).any()
    assert not (draw_phantom(0, 0, 12, 48, organ="liver", tumor_free=1.0).label == 2).any()
    drawn = [(draw_phantom(0, case, 8, 24, tumor_free=0.5).label == 2).any() for case in range(12)]
    assert 2 <= sum(drawn) <= 10


def test_cysts_are_kidney_in_kits19_and_3_in_kits23():
    held = 0
    for case in range(4):
        old, new = (draw_phantom(0, case, 16, 64, classes=classes) for classes in ("kits19", "kits23"))
        held += (new.label == 3).sum()
        assert np.array_equal(old.image, new.image)
        assert np.array_equal(old.label, np.where(new.label == 3, 1, new.label))
    assert held > 0


def test_both_layouts_hold_the_same_patient_the_right_way_up(livers, tmp_path):
    # In RAS+ a high first index is the patient's right, a low second one the back, a high third one the head.
    for number, phantom in enumerate(livers[:4]):  # the four directions of LiTS
        write_kits_case(tmp_path, "case_00000", phantom)
        write_lits_case(tmp_path, number, phantom)
        kits = nib.load(tmp_path / "case_00000" / "imaging.nii.gz")
        lits = nib.load(tmp_path / f"volume-{number}.nii")
        assert kits.shape == (24, 96, 96) and lits.shape == (96, 96, 24)
        assert nib.aff2axcodes(kits.affine) == ("I", "P", "L")
        upright = [np.asanyarray(nib.as_closest_canonical(image).dataobj) for image in (kits, lits)]
        assert np.array_equal(*upright)
        assert np.allclose(kits.header.get_zooms(), phantom.spacing)
        assert np.allclose(lits.header.get_zooms(), phantom.spacing[::-1])
        label = nib.as_closest_canonical(nib.load(tmp_path / f"segmentation-{number}.nii"))
        liver = np.argwhere(np.asanyarray(label.dataobj) > 0).mean(0)
        bone = np.argwhere(upright[0][30:66, :, :12] > 250).mean(0)
        assert liver[0] > 48 and bone[1] < 48
        assert liver[2] > 11.5  # the liver lies in the upper half
    codes = {nib.aff2axcodes(nib.load(path).affine) for path in tmp_path.glob("volume-*.nii")}
    assert codes == {("L", "P", "S"), ("R", "P", "S"), ("L", "A", "S"), ("R", "A", "S")}


def test_files_do_not_depend_on_the_number_of_processes_or_cases(tmp_path):
    small = ["--slices", "6", "--size", "32", "--seed", "5"]
    assert MakePhantom.main(["--outpath", str(tmp_path / "one"), "--cases", "2", "--jobs", "1", *small]) == 0
    assert MakePhantom.main(["--outpath", str(tmp_path / "two"), "--cases", "3", "--jobs", "2", *small]) == 0
    for path in sorted((tmp_path / "one").glob("case_*/*.nii.gz")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert len(list((tmp_path / "two").glob("case_*/imaging.nii.gz"))) == 3
    assert not list((tmp_path / "two").glob(".*"))
    known = json.loads((tmp_path / "two" / "kits.json").read_text())
    assert [record["case_id"] for record in known] == ["case_00000", "case_00001", "case_00002"]
    spacing = nib.load(tmp_path / "two" / "case_00002" / "imaging.nii.gz").header.get_zooms()
    assert np.allclose(spacing, [known[2]["voxel_spacing"][f"{axis}_spacing"] for axis in "zyx"], atol=1e-5)


def test_a_stopped_run_leaves_nothing_behind_once_it_is_repeated(tmp_path):
    stale = tmp_path / ".partial-case_00000"
    stale.mkdir()
    (stale / "imaging.nii.gz").write_bytes(b"half")
    arguments = ["--outpath", str(tmp_path), "--cases", "1", "--slices", "4", "--size", "24", "--jobs", "1"]
    assert MakePhantom.main(arguments) == 0 and MakePhantom.main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_00000", "kits.json"]


def test_wrong_arguments_are_told_before_any_work(tmp_path, capsys):
    assert MakePhantom.main(["--outpath", str(tmp_path / "out"), "--labels", str(tmp_path)]) == 2
    assert "holds no case_*/segmentation.nii.gz" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'kidney' or 'liver'"):
        draw_phantom(0, 0, organ="spleen")
    with pytest.raises(ValueError, match="'kits19'"):
        draw_phantom(0, 0, classes="kits20")


def test_the_script_runs_from_another_folder(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "MakePhantom.py"), "--outpath", "lits", "--layout", "lits"]
    command += ["--cases", "2", "--slices", "6", "--size", "32", "--jobs", "1", "--tumor_free", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cases" in done.stdout and "label 2 tumor" in done.stdout
    names = sorted(path.name for path in (tmp_path / "lits").iterdir())
    assert names == ["segmentation-0.nii", "segmentation-1.nii", "volume-0.nii", "volume-1.nii"]


@pytest.mark.skipif(not REAL_LABELS.is_dir(), reason=f"real KiTS labels are not at {REAL_LABELS}")
def test_a_phantom_around_a_real_label_keeps_its_volumes_and_needs_learning(tmp_path):
    made = []
    for case in ("case_00021", "case_00087"):
        label = nib.load(REAL_LABELS / case / "segmentation.nii.gz")
        spacing = tuple(float(step) for step in label.header.get_zooms())
        data = np.asanyarray(label.dataobj)
        phantom = render_around(data, spacing, 0, 0, size=96)
        for value in (1, 2):
            before = (data == value).sum() * np.prod(spacing)
            after = (phantom.label == value).sum() * np.prod(phantom.spacing)
            assert abs(after / before - 1) < 0.06
        made.append(phantom)
    assert best_interval_dice(made)[1] < 0.5
