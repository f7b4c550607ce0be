"""ISIC 2024's metadata as features, and which columns are refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from datasets.images.isic_metadata import LEAKS, leak_reason, read_metadata
from tests.image_stores import LEAK_COLUMNS, write_isic


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_isic(tmp_path_factory.mktemp("isic"))


def test_all_columns_are_those_that_do_not_leak(root):
    metadata = read_metadata(root)
    assert metadata.columns == ["age_approx", "sex", "anatom_site_general", "tbp_lv_areaMM2"]
    assert metadata.values.shape == (120, 4) and metadata.isic_ids[6] == "ISIC_0000006"
    sites = ["head/neck", "lower extremity", "torso"]
    assert metadata.categories == {"sex": ["female", "male"], "anatom_site_general": sites}
    # row 6: patient 1 is 41 and female; 6 % 4 = 2 is the lower extremity; 6 / 8 mm2
    assert metadata.values[6].tolist() == [41, 0, 1, 0.75]
    assert metadata.values[4, 2] == 2  # the torso
    assert np.isnan(metadata.values[3 * 6 : 4 * 6, 0]).all()  # the age NA of patient 3
    assert np.isnan(metadata.values[3, 2])  # an empty site


def test_rows_come_as_asked_and_mean_the_same(root):
    whole = read_metadata(root)
    part = read_metadata(root, ["sex", "age_approx"], ["ISIC_0000031", "ISIC_0000006"])
    assert part.isic_ids == ["ISIC_0000031", "ISIC_0000006"]
    assert np.array_equal(part.values, whole.values[[31, 6]][:, [1, 0]], equal_nan=True)
    # both are women: the numbers still stand for all that the file holds
    assert part.categories == {"sex": ["female", "male"]} and part.values[:, 0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="no row for 1 lesions, such as ISIC_x"):
        read_metadata(root, ["sex"], ["ISIC_x"])


@pytest.mark.parametrize("column", ["target", "isic_id", "patient_id", "iddx_5", "mel_thick_mm", *LEAK_COLUMNS])
def test_a_column_that_leaks_is_refused_with_the_reason(root, column):
    reason = leak_reason(column)
    assert reason in LEAKS.values()
    with pytest.raises(ValueError, match=re.escape(f"column {column} is refused as a feature: {reason}")):
        read_metadata(root, ["sex", column])


def test_an_unknown_column_and_a_cut_off_file_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="has no column sax: choose from isic_id, target"):
        read_metadata(root, ["sax"])
    text = (root / "train-metadata.csv").read_text()
    (tmp_path / "train-metadata.csv").write_text(text[: text.rindex("IP_")])
    with pytest.raises(ValueError, match=r"line 121 has 3 of 13 columns"):
        read_metadata(tmp_path)
