"""The least that slicing KiTS cases takes: reading their gzip files and writing as many bytes, a file a slice.

python scripts/benchmarks/slicing_floor.py RAW OUT SLICES JOBS   (in JOBS processes; nothing is checked or turned)
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from isal import igzip

HEADER = 352  # bytes of a NIfTI file before its voxels


def copy(out: Path, slices: int, folder: Path) -> None:
    """A case's voxels, image and label, in the order of its files."""
    with igzip.open(folder / "imaging.nii.gz") as image, igzip.open(folder / "segmentation.nii.gz") as label:
        image.read(HEADER)
        label.read(HEADER)
        parts = bytearray(2 * 512 * 512), bytearray(512 * 512)  # int16 and uint8
        for index in range(slices):
            image.readinto(parts[0])
            label.readinto(parts[1])
            with (out / f"{folder.name}_{index}.raw").open("wb") as file:
                file.writelines(parts)


def main() -> None:
    raw, out, slices, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    out.mkdir()
    with ProcessPoolExecutor(jobs) as pool:
        list(pool.map(partial(copy, out, slices), sorted(raw.iterdir())))


if __name__ == "__main__":
    main()
