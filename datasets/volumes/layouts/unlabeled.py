"""The layout of scans without labels: NIfTI files or DICOM series in a folder, nothing else."""

from __future__ import annotations

from datasets.findings import Finding
from datasets.fingerprints import digest
from datasets.scan import Scan
from datasets.volumes.dicom_tags import MODALITY, PATIENT, read_tags
from datasets.volumes.layouts.cases import Modality, RawCase, RawDataset
from datasets.volumes.layouts.patients import patients_of
from datasets.volumes.scans import Case, cases_of

UNLABELED = "unlabeled"


def find_unlabeled(found: Scan, _channel: int | None, modality: Modality | None = None) -> RawDataset:
    """The scans that predict.py finds in a folder; cases without labels, and a dataset without classes.

    modality: of NIfTI files, which do not name theirs: CT where it is None and no DICOM series says otherwise. A series
    of another modality is a finding. The patient of a series is a hash of its PatientID, so that the store does not
    hold it; that of a file goes by its name.
    """
    scans = cases_of(found)
    files = [case for case in scans if case.series is None]
    patients, findings = patients_of([case.name for case in files], found.root)
    said: dict[str, str] = {}
    for case in scans:
        if case.series is not None and (tags := read_tags(case.files[0])) is not None:
            said[case.name] = tags[MODALITY]
            if tags[PATIENT]:
                patients[case.name] = f"patient-{digest(tags[PATIENT])}"
    if modality is None:
        known = {name for name in said.values() if name in ("CT", "MR")}
        modality = "MR" if known == {"MR"} else "CT"
        if files:
            what, remedy = f"NIfTI files name no modality: they are taken as {modality}", "if they are not: --modality"
            findings.append(Finding(found.root, what, remedy, bad=False))
    cases: dict[str, RawCase] = {}
    for case in scans:
        problem = _problem(case, cases, said.get(case.name) or modality, modality)
        if problem is None:
            patient = patients.get(case.name, case.name)
            cases[case.name] = RawCase(case.name, patient, case.path, None, series=case.series)
        else:
            findings.append(problem)
    return RawDataset(UNLABELED, modality, {}, list(cases.values()), findings)


def _problem(case: Case, cases: dict[str, RawCase], said: str, modality: Modality) -> Finding | None:
    """Why a scan is left out, or None."""
    if case.name in cases:
        return Finding(case.path, f"is called {case.name} as {cases[case.name].image} is", "rename or remove one")
    if said != modality:
        remedy = f"slice it into another store with --modality {said}" if said in ("CT", "MR") else "move it away"
        return Finding(case.path, f"the series is {said}, the others are {modality}", remedy)
    return None
