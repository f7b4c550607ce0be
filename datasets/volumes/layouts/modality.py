"""What a channel holds, by the words that name it in dataset.json: CT in Hounsfield units, or something else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from datasets.findings import Finding

CT_WORDS = re.compile(r"ct|ctscans?|cta|ctpa|(ce|ne|nc|ld|hr|cb|md|de|pc)ct|hu|hounsfield")
CT_PHRASES = re.compile(r"\b(computed|computeri[sz]ed) tomography\b")
OTHER_WORDS = re.compile(
    r"[fsd]?mri?|mrt|mra|mrcp|t[12]\w*|pdw?|flair|adc|dwi|dti|dce|dsc|swi|asl|bssfp|lge|cine|tof|cbf|cbv|mtt|tmax"
    r"|pet|fdg|psma|suv\w*|spect|us|ultrasound|sonography|xray|radiograph|oct|microscopy|rtdose"
)
OTHER_PHRASES = re.compile(r"\b(emission (computed )?|optical coherence )tomography\b|\bmagnetic resonance\b|\bx ray\b")


def modality_of(text: str) -> Literal["CT", "MR"] | None:
    """CT if a word names it, MR for everything known not to be CT (MRI, PET, SPECT, ...), None if neither is known.

    A whole word counts: "subtraction" and "SPECT" are not CT. Words of both kinds ("PET/CT") leave it open.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    plain = " ".join(words)
    other = bool(OTHER_PHRASES.search(plain)) or any(OTHER_WORDS.fullmatch(word) for word in words)
    plain = OTHER_PHRASES.sub("", plain)
    ct = bool(CT_PHRASES.search(plain)) or any(CT_WORDS.fullmatch(word) for word in plain.split())
    if ct == other:
        return None
    return "CT" if ct else "MR"


def modality_of_channel(
    file: Path, channels: Mapping[int, str], channel: int | None
) -> tuple[Literal["CT", "MR"], list[Finding]]:
    """The modality of the channel asked for (the first one by default), and a note where it had to be assumed.

    file: the dataset.json that names the `channels`. An unknown modality counts as MR, whose values stay as they are.
    """
    name = channels.get(channel or 0)
    modality = None if name is None else modality_of(name)
    if modality is not None:
        return modality, []
    said = "has no name" if name is None else f"is named {name!r}"
    remedy = f'if it is CT in Hounsfield units, write "modality": {{"{channel or 0}": "CT"}} there'
    what = f"channel {channel or 0} {said}, so whether it is CT is open: it is stored as MR, its values as they are"
    return "MR", [Finding(file, what, remedy, bad=False)]
