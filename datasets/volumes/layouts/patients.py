"""Whose scan a case is, by its name: several scans of one patient must not fall into different splits."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from datasets.findings import Finding

# The part before is the patient: patient001_frame01 (ACDC), sub-01_ses-1 (BIDS), BraTS-GLI-00005-100, A0S9V9_ED (M&Ms)
OF_ONE_PATIENT = (
    re.compile(r"(patient\d+)_frame[a-z0-9]+", re.IGNORECASE),
    re.compile(r"(sub-[a-z0-9]+)(?:_.+)?", re.IGNORECASE),
    re.compile(r"(BraTS-[a-z]+-\d{5})-\d{3}", re.IGNORECASE),
    re.compile(r"(.*\d.*)[_-](?:ED|ES)"),
)
# Likewise case_01_t0 and P12_visit-2, if the part before is not the name of the whole collection
OF_ONE_TIME = re.compile(r"(.*\d.*?)[_-](?:frame|session|ses|visit|timepoint|tp|time|t)[_-]?\d+", re.IGNORECASE)
LAST_PART = re.compile(r"(.*\d.*)[_.-][^_.-]+")


def patients_of(cases: Sequence[str], file: Path) -> tuple[dict[str, str], list[Finding]]:
    """The patient of every case, and a note where names look like several scans of a patient but need not be.

    file: what the note is about.
    """
    patients = {case: _patient(case) or case for case in cases}
    times = {case: match[1] for case in cases if patients[case] == case and (match := OF_ONE_TIME.fullmatch(case))}
    if len({*times.values()}) > 1 or len(times) < len(cases):
        patients |= times
    return patients, _look_alikes(patients, file)


def _patient(case: str) -> str | None:
    return next((match[1] for pattern in OF_ONE_PATIENT if (match := pattern.fullmatch(case))), None)


def _look_alikes(patients: dict[str, str], file: Path) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted({*patients.values()}):
        if match := LAST_PART.fullmatch(patient):
            groups[match[1]].append(patient)
    several = [group for group in groups.values() if len(group) > 1]
    whole = len(several) == 1 and len(several[0]) == len({*patients.values()})  # then it is the name of the collection
    if not several or (whole and not OF_ONE_TIME.fullmatch(several[0][0])):
        return []
    what = f"{several[0][0]} and {several[0][1]} may be scans of one patient, yet each counts as a patient"
    others = sum(len(group) for group in several) - 2
    what += f" (likewise {others} more cases)" if others else ""
    return [Finding(file, what, "if they are, keep them in one split with --split_file", bad=False)]
