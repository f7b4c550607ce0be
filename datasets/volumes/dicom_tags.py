"""The first tags of a DICOM file, up to those of its pixels: what it is, and which series it belongs to.

Files without the 128 bytes and "DICM" in front are read as well. The pixels, and the grid, are left to GDCM.
"""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SOP_CLASS, MODALITY, IMAGE_TYPE = 0x00080016, 0x00080060, 0x00080008
PATIENT, STUDY, SERIES, SERIES_NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200011
INSTANCE, POSITION, IN_ACQUISITION, ROWS = 0x00200013, 0x00200032, 0x00201002, 0x00280010
WANTED = {
    *(SOP_CLASS, MODALITY, IMAGE_TYPE, PATIENT, STUDY, SERIES, SERIES_NUMBER),
    *(INSTANCE, POSITION, IN_ACQUISITION, ROWS),
}
PREFIX, MAGIC = 128, b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
ITEM, ITEM_END, SEQUENCE_END, TRANSFER_SYNTAX = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00020010
UNDEFINED = 0xFFFFFFFF
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}
SLICE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("1", "2", "4", "7", "12", "20", "128"))
SCREENSHOT = SLICE_CLASSES[3]
BESIDE_CLASSES = {  # what lies beside a series, by the beginning of its SOP class
    "1.2.840.10008.1.3.10": "DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66": "registration or raw data",
    "1.2.840.10008.5.1.4.1.1.88": "SR",
    "1.2.840.10008.5.1.4.1.1.104": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.9": "waveform",
}
BESIDE_MODALITIES = {
    *("RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "RTIMAGE"),
    *("SR", "PR", "KO", "SEG", "REG", "DOC", "FID"),
}


@dataclass(frozen=True)
class Tags:
    """The tags of one file as text. whole: they were read up to those of the pixels, or to the end of the file."""

    values: dict[int, str]
    whole: bool

    def __getitem__(self, tag: int) -> str:
        return self.values.get(tag, "")

    def number(self, tag: int) -> int | None:
        return int(self[tag]) if self[tag].lstrip("+-").isdigit() else None

    @property
    def beside(self) -> str | None:
        """The kind of a file that is not a slice of a volume (RTSTRUCT, SR, localizer, screenshot), else None."""
        for start, kind in BESIDE_CLASSES.items():
            if self._of(start):
                return kind
        if self[MODALITY] in BESIDE_MODALITIES:
            return self[MODALITY]
        if "LOCALIZER" in self[IMAGE_TYPE].upper().split("\\"):
            return "localizer"
        if self.whole and self._of(SCREENSHOT) and not self[POSITION]:
            return "secondary capture"
        if self.whole and self[SOP_CLASS] and ROWS not in self.values and not any(map(self._of, SLICE_CLASSES)):
            return f"SOP class {self[SOP_CLASS]}"
        return None

    def _of(self, sop_class: str) -> bool:
        return f"{self[SOP_CLASS]}.".startswith(f"{sop_class}.")

    @property
    def damage(self) -> str | None:
        """Why this slice is incomplete, or None."""
        if not self.whole:
            return "its tags end before those of the image"
        return None if ROWS in self.values else "has no image"


def read_tags(path: Path) -> Tags | None:
    """Read the tags of a file; None if it is not DICOM. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(PREFIX + len(MAGIC))
        marked = start[PREFIX:] == MAGIC
        if not marked:
            if not _begins(start):
                return None
            file.seek(0)
        values: dict[int, str] = {}
        try:
            whole = _read(file, values)
        except (EOFError, RecursionError, zlib.error):
            whole = False
    if not (marked or SOP_CLASS in values or MODALITY in values):
        return None
    return Tags(values, whole)


def _begins(start: bytes) -> bool:
    """Whether bytes are the first element of a file without prefix: of its meta group, or of group 0008."""
    if len(start) < 8 or start[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    return start[4:6] in LONG | SHORT or (start[0] == 8 and int.from_bytes(start[4:8], "little") <= 1 << 16)


def _read(file: BinaryIO, values: dict[int, str]) -> bool:
    """Collect the tags that are wanted; True where those of the pixels, or the end of the file, were reached."""
    syntax = ""
    while (start := file.read(8)) and start[:2] == b"\2\0":  # the meta group is explicit and little-endian always
        file.seek(-len(start), io.SEEK_CUR)
        tag, vr, length = _Elements(file, "little", explicit=True).next()
        value = _exactly(file, length)
        syntax = value.decode("latin-1").strip("\0 ") if tag == TRANSFER_SYNTAX else syntax
    if start:
        file.seek(-len(start), io.SEEK_CUR)
    if syntax == DEFLATED:
        file = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), 1 << 24))
        start = file.read(8)
        file.seek(0)
    order = "big" if start[:2] == b"\0\x08" else "little"
    elements = _Elements(file, order, explicit=start[4:6] in LONG | SHORT)
    while (element := elements.next()) is not None:
        tag, vr, length = element
        if tag > ROWS:
            return True
        if tag in WANTED and length != UNDEFINED:
            value = _exactly(file, length)
            text = str(int.from_bytes(value, order)) if tag == ROWS else value.decode("latin-1").strip("\0 ")
            values.setdefault(tag, text)
        else:
            elements.skip(vr, length)
    return True


@dataclass(frozen=True)
class _Elements:
    """The elements of a data set, one after the other."""

    file: BinaryIO
    order: str
    explicit: bool

    def next(self) -> tuple[int, bytes, int] | None:
        """Tag, VR (empty where it is implicit) and length of the value; None at the end of the file."""
        start = self.file.read(8)
        if not start:
            return None
        if len(start) < 8:
            raise EOFError
        number = lambda data: int.from_bytes(data, self.order)  # noqa: E731
        tag = number(start[:2]) << 16 | number(start[2:4])
        if tag >> 16 == ITEM >> 16 or not self.explicit:
            return tag, b"", number(start[4:])
        if start[4:6] in LONG:
            return tag, start[4:6], number(_exactly(self.file, 4))
        return tag, start[4:6], number(start[6:])

    def skip(self, vr: bytes, length: int) -> None:
        """Pass over a value; one of undefined length holds items, which hold elements."""
        if length != UNDEFINED:
            if length:  # the last byte is read, so that a file that ends before it is noticed
                self.file.seek(length - 1, io.SEEK_CUR)
                _exactly(self.file, 1)
            return
        inner = _Elements(self.file, self.order, self.explicit and vr != b"UN")
        while (item := inner._must())[0] != SEQUENCE_END:
            if item[2] != UNDEFINED:
                inner.skip(b"", item[2])
                continue
            while (element := inner._must())[0] != ITEM_END:
                inner.skip(*element[1:])

    def _must(self) -> tuple[int, bytes, int]:
        element = self.next()
        if element is None:
            raise EOFError
        return element


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
