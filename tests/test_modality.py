"""Whether a channel is CT is decided by the words of its name, and a note says what was assumed where it is open."""

import pytest

from datasets.volumes.layouts.modality import modality_of, modality_of_channel


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        *((text, "CT") for text in ("CT", "ct", " CT scan", "CECT", "cbct", "Computed Tomography", "CT_venous", "CTA")),
        *((text, "CT") for text in ("contrast-enhanced CT", "non-contrast CT", "low-dose CT (HU)", "Hounsfield")),
        *((text, "MR") for text in ("MRI", "MR", "T1", "t2w", "FLAIR", "Structural MRI (T1w)", "DCE-MRI subtraction")),
        *((text, "MR") for text in ("T1 non-contrast fraction (MRI)", "ADC fraction", "cine", "PET", "SPECT", "FDG")),
        ("positron emission tomography", "MR"),
        ("magnetic resonance", "MR"),
        ("chest X-ray", "MR"),
        ("single photon emission computed tomography", "MR"),
        *((text, None) for text in ("PET/CT", "SPECT-CT", "synthetic CT of MRI", "noNorm", "zscore", "0", "")),
        *((text, None) for text in ("subtraction", "structural", "reconstruction", "octopus", "electron")),
    ],
)
def test_a_whole_word_decides(text, modality):
    assert modality_of(text) == modality


def test_the_channel_asked_for_decides_and_what_is_open_is_noted(tmp_path):
    file, channels = tmp_path / "dataset.json", {0: "PET", 1: "CT", 2: "noNorm"}
    assert [modality_of_channel(file, channels, channel) for channel in (None, 0, 1)] == [
        ("MR", []),
        ("MR", []),
        ("CT", []),
    ]
    for channel, said in ((2, "is named 'noNorm'"), (3, "has no name")):
        modality, (note,) = modality_of_channel(file, channels, channel)
        assert (modality, note.file, note.bad) == ("MR", file, False)
        assert note.what == (
            f"channel {channel} {said}, so whether it is CT is open: it is stored as MR, its values as they are"
        )
        assert note.remedy == f'if it is CT in Hounsfield units, write "modality": {{"{channel}": "CT"}} there'
