"""Images as arrays: turned upright, and refused in one line where they cannot be read right."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images.decoding import UnreadableImageError, check_readable, decode, refuse_any, scan_images
from utils.recipe.schema import ROOT

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
UPRIGHT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_an_image_is_turned_as_its_orientation_says(kind, orientation):
    exif, encoded = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    stored = Image.fromarray(UPRIGHT).transpose(TURNS[orientation])
    stored.save(encoded, kind, exif=exif.tobytes(), **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(decode(encoded.getvalue(), "x"), UPRIGHT)


def test_damaged_exif_leaves_the_pixels_as_they_are():
    encoded = BytesIO()
    Image.fromarray(UPRIGHT).save(encoded, "PNG", exif=b"Exif\0\0MM\0*nonsense")
    assert np.array_equal(decode(encoded.getvalue(), "x"), UPRIGHT)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG by hand; color 0 is gray, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def frames(kind: str) -> bytes:
    encoded = BytesIO()
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200))
    first.save(encoded, kind, save_all=True, append_images=[second])
    return encoded.getvalue()


def lab() -> bytes:
    encoded = BytesIO()
    Image.new("LAB", (8, 8)).save(encoded, "TIFF")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<html>404</html>", "Pillow knows no such format"),
        (png(15000, 13000, 8, 0, b"\0"), "has over 178,956,970 pixels: scale it down"),
        (png(2, 1, 16, 2, bytes(13)), "has more than 8 bits a channel"),
        (png(2, 1, 16, 0, bytes(5)), "has more than 8 bits a channel"),
        (frames("GIF"), "holds 2 frames"),
        (frames("TIFF"), "holds 2 frames"),
        (frames("WEBP"), "holds 2 frames"),
        (lab(), "color mode LAB"),
    ],
    ids=["empty", "html", "bomb", "rgb16", "gray16", "gif", "tiff", "webp", "lab"],
)
def test_what_cannot_be_read_right_is_refused_by_its_header(tmp_path, content, said):
    file = tmp_path / "x.png"
    file.write_bytes(content)
    for read in (lambda: decode(content, str(file)), lambda: decode(file, str(file)), lambda: check_readable([file])):
        with pytest.raises(ValueError, match=said) as caught:
            read()
        assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_a_body_cut_short_is_refused():
    encoded = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(encoded, "JPEG")
    for length in range(2, len(encoded.getvalue()) - 40, 97):
        with pytest.raises(UnreadableImageError, match=r"^x: "):
            decode(encoded.getvalue()[:length], "x")


def test_what_is_read_is_read_without_a_warning(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*nonsense")
    code = (
        "import sys; from PIL import Image; from datasets.images.decoding import decode\n"
        "Image.MAX_IMAGE_PIXELS = 20  # of 24, and 40 are refused\n"
        "print(decode(open(sys.argv[1], 'rb').read(), 'x').shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(4, 6, 3)\n", "")


def test_colors_become_what_they_show():
    cmyk, gray = BytesIO(), BytesIO()
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(cmyk, "TIFF")
    Image.new("1", (4, 4), 1).save(gray, "PNG")
    assert decode(cmyk.getvalue(), "x")[0, 0].tolist() == [255, 0, 0]
    assert (decode(gray.getvalue(), "x") == 255).all() and decode(gray.getvalue(), "x").shape == (4, 4)


def test_every_ending_that_is_searched_for_is_read_whatever_its_case(tmp_path):
    names = ["a.JPG", "b.jfif", "c.jpe", "d.GIF", "e.webp", "f.TIFF", "g.tif", "h.bmp", "i.PNG", "j.jpeg"]
    for name in names:
        Image.fromarray(UPRIGHT).save(tmp_path / name)
    for name in ("._a.JPG", "notes.txt", "scan.heic"):
        (tmp_path / name).write_bytes(b"x")
    found = scan_images(tmp_path)
    assert [file.name for file in found.files] == names
    assert found.summary.endswith("passed over: 1 by hidden name (._a.JPG), 2 by ending (1 .txt, 1 .heic)")
    assert all(decode(file, file.name).shape == (4, 6, 3) for file in found.files)


def test_one_line_names_five_of_many():
    with pytest.raises(ValueError, match=r"^7 images or folders cannot be used: a0; a1; a2; a3; a4; and 2 more$"):
        refuse_any([f"a{number}" for number in range(7)])
    with pytest.raises(ValueError, match=r"^a$"):
        refuse_any(["a"])
    refuse_any([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_file_is_named(tmp_path):
    file = Path(tmp_path / "x.png")
    Image.fromarray(UPRIGHT).save(file)
    file.chmod(0)
    with pytest.raises(UnreadableImageError, match=r"x.png: Permission denied: ask for the permission"):
        decode(file, str(file))
