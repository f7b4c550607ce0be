"""patients.csv as people write it: whose image is whose, or one line about what is wrong."""

from pathlib import Path

import pytest

from datasets.images.patients import read_patients

CASES = ["train/mel/a.png", "train/nv/b.JPG", "test/nv/deep/c.d.png"]


def write(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "patients.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    "text",
    [
        "image,patient\na.png,p1\nb.JPG,p2\nc.d.png,p3\n",
        "\ufeffimage,patient\r\na,p1\r\nb,p2\r\nc.d,p3\r\n",
        "Image ; PATIENT;age\n a.png ; p1 ;3\nb.jpg;p2;4\nc.d.PNG;p3;5\n",
        '"patient"\t"image"\np1\ttrain/mel/a\np2\ttrain\\nv\\b.jpg\np3\t./test/nv/deep/c.d.png\n',
        "image,patient\nmel/a.png,p1\nnv/b,p2\ndeep/c.d,p3\n\na.png,p1\n",
    ],
    ids=["names", "bom", "semicolon", "paths", "ends"],
)
def test_an_image_may_be_written_in_several_ways(tmp_path, text):
    assert read_patients(write(tmp_path, text), CASES) == (["p1", "p2", "p3"], [])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1.png,p1\n1.png,p2", "names are not unique: 1.png fits train/mel/1.png and train/nv/1.png: give the paths"),
        ("1.png,p1", "names are not unique: 1.png fits train/mel/1.png and train/nv/1.png"),
        ("mel/1,p1\nmel/1.png,p2\nnv/1,p3", "train/mel/1.png has the patients p1 and p2: keep one row"),
        ("mel/1,p1\nmel/1,p2\nnv/1,p3", "train/mel/1.png has the patients p1 and p2: keep one row"),
        ("mel/1,p1", "names no patient of 1 images, such as train/nv/1.png (its first row names mel/1): add them"),
        ("mel/1,nan\nnv/1, ", "the patient of 2 images is blank, such as 'nan' for train/mel/1.png"),
        ("mel/1,p1\nnv/1", "the patient of 1 images is blank, such as '' for train/nv/1.png"),
    ],
)
def test_rows_that_do_not_say_whose_image_it_is_are_refused(tmp_path, rows, said):
    with pytest.raises(ValueError) as caught:
        read_patients(write(tmp_path, f"image,patient\n{rows}\n"), ["train/mel/1.png", "train/nv/1.png"])
    assert said in str(caught.value) and str(caught.value).startswith(f"{tmp_path / 'patients.csv'}: ")


def test_a_name_without_its_ending_that_fits_two_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"names are not unique: a fits train/a.jpg and train/a.png"):
        read_patients(write(tmp_path, "image,patient\na,p1\n"), ["train/a.jpg", "train/a.png"])
    file = write(tmp_path, "image,patient\na.jpg,p1\na.png,p2\n")
    assert read_patients(file, ["train/a.jpg", "train/a.png"])[0] == ["p1", "p2"]


def test_rows_that_fit_no_image_are_counted(tmp_path):
    file = write(tmp_path, "image,patient\na.png,p1\nold.png,nan\nolder.png,p2\n")
    patients, notes = read_patients(file, CASES[:1])
    assert patients == ["p1"]
    assert notes == [f"{file}: passed over: 2 of 3 names, which fit no image, such as old.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column image but none"),
        ("file,who\na,b\n", "has no column image but file, who: give CSV with columns image, patient"),
        ("image,patient\na,Müller\n".encode("latin-1"), "is not UTF-8: save it as CSV UTF-8"),
    ],
)
def test_another_file_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_patients(write(tmp_path, text), CASES)
    with pytest.raises(ValueError, match=r"none.csv: No such file or directory: check the path"):
        read_patients(tmp_path / "none.csv", CASES)
