"""Sections of a recipe: a name from a registry and the arguments of the constructor that it names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'X'?`, or nothing where no known word is near."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def check(registry: Mapping[str, Callable], section: Mapping[str, Any], what: str) -> None:
    """Raises ValueError naming the section, its wrong name or key, and the nearest match."""
    name = section.get("name")
    if name not in registry:
        raise ValueError(
            f"{what}: unknown name {name!r}{nearest(str(name), list(registry))}; one of {', '.join(registry)}"
        )
    accepted = inspect.signature(registry[name]).parameters
    for key in section:
        if key != "name" and key not in accepted:
            raise ValueError(
                f"{what}: {name} has no argument {key!r}{nearest(key, list(accepted))}; it takes {', '.join(accepted)}"
            )


def build(registry: Mapping[str, Callable], section: Mapping[str, Any], what: str, **given: Any) -> Any:
    """Calls the constructor that `section["name"]` names in `registry` with the section's other keys.

    Values are checked (and YAML lists turned into tuples) against the constructor's annotations. `given` are arguments
    that the caller knows, e.g. the number of classes; the section wins where it says otherwise, and one that the
    constructor does not have is left out.

    Raises ValueError naming the section, the wrong name, key or value, and the nearest match.
    """
    check(registry, section, what)
    arguments = dict(section)
    name = arguments.pop("name")
    constructor = registry[name]
    accepted = inspect.signature(constructor).parameters
    given = {key: value for key, value in given.items() if key in accepted and key not in arguments}
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(constructor) else parser.add_function_arguments
    add(constructor, skip=set(given))
    try:
        checked = parser.instantiate(parser.parse_object(arguments)).as_dict()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what}: {name}: {reason}") from None
    return constructor(**checked, **given)
