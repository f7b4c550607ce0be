"""Which of a student's classes each class of a teacher's soft maps is."""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.recipe.registry import nearest

BACKGROUND = "background"


def match_classes(
    theirs: Sequence[str], ours: Sequence[str], table: Mapping[str, str], labels: Mapping[str, str]
) -> np.ndarray:
    """Which of our foreground classes each of theirs is, bool (theirs, ours): several may be one, and none is two.

    Args:
        theirs, ours: Names of foreground classes.
        table: Our name for some of theirs, or `background`.
        labels: The class that our task makes of each label name of the store. Without an entry in the table a class of
            theirs is what the label of its name is: where tumors belong to the organ, a teacher's do. Else it is ours
            of the same name, or background.

    Raises ValueError for a name that neither has, and where no class of theirs is one of ours.
    """
    for name, known, of in (
        *((name, theirs, "the teacher") for name in table),
        *((name, [*ours, BACKGROUND], "the student") for name in table.values()),
    ):
        if name not in known:
            has = ", ".join(known)
            raise ValueError(f"teacher.classes: {of} has no {name!r}{nearest(str(name), list(known))}; it has {has}")
    names = {**{name: name for name in theirs}, **labels, **table}
    matrix = np.array([[names[name] == own for own in ours] for name in theirs], bool)
    if not matrix.any():
        raise ValueError(
            f"teacher.classes: none of the teacher's {', '.join(theirs)} is one of the student's {', '.join(ours)}: "
            "give {THEIRS: OURS}"
        )
    return matrix


def class_rows(theirs: Sequence[str], ours: Sequence[str], matrix: np.ndarray) -> list[dict[str, str]]:
    """A row for each class that either has, for `utils.tables.table`: what becomes of it."""
    rows = [
        {"teacher": name, "student": next((own for own, same in zip(ours, of, strict=True) if same), BACKGROUND)}
        for name, of in zip(theirs, matrix, strict=True)
    ]
    lacking = [name for name, taught in zip(ours, matrix.any(axis=0), strict=True) if not taught]
    return rows + [{"teacher": "none, labels only", "student": name} for name in lacking]
