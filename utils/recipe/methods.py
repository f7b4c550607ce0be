"""The methods of distillation: `method: NAME` in a recipe stands for the terms in configs/methods/NAME.yaml."""

from __future__ import annotations

from pathlib import Path

from utils.recipe.registry import nearest
from utils.recipe.schema import ROOT

METHODS = ROOT / "configs" / "methods"
# Where no recipe names a method or terms: for slices, and for images, each of which has one class.
DEFAULT, DEFAULT_OF_IMAGES = ROOT / "configs/default_kd.yaml", ROOT / "configs/default_kd_images.yaml"


def method_names() -> list[str]:
    return sorted(path.stem for path in METHODS.glob("*.yaml"))


def method_file(name: str, where: str = "method") -> Path:
    """The recipe of a method. Raises ValueError for an unknown name, which `where` gave, with the nearest one."""
    known = method_names()
    if name not in known:
        raise ValueError(f"{where}: unknown method {name!r}{nearest(name, known)}; one of {', '.join(known)}")
    return METHODS / f"{name}.yaml"


def published_forms(name: str) -> list[str]:
    """The methods that compute what the code published with a method computes."""
    return [other for other in method_names() if other.endswith("_as_published") and other.startswith(name)]
