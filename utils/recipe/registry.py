"""Sections of a recipe: a name from a registry and the arguments of the constructor that it names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser

OPTIONS = "options"  # an argument that is a dataclass: its fields are keys of the section


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
    own, options = _accepted(registry[name])
    accepted = [*own, *options]
    for key in section:
        if key != "name" and key not in accepted:
            raise ValueError(
                f"{what}: {name} has no argument {key!r}{nearest(key, accepted)}; it takes {', '.join(accepted)}"
            )


def build(registry: Mapping[str, Callable], section: Mapping[str, Any], what: str, **given: Any) -> Any:
    """Calls the constructor that `section["name"]` names in `registry` with the section's other keys.

    Values are checked (and YAML lists turned into tuples) against the constructor's annotations. The fields of a
    dataclass that the constructor takes as `options` are keys of the section like its other arguments. `given` are
    arguments that the caller knows, e.g. the number of classes; the section wins where it says otherwise, and one that
    the constructor does not have is left out.

    Raises ValueError naming the section, the wrong name, key or value, and the nearest match.
    """
    check(registry, section, what)
    arguments = dict(section)
    name = arguments.pop("name")
    constructor = registry[name]
    keys, options = _accepted(constructor)
    parser = _parser(constructor, frozenset({*given, OPTIONS} - set(arguments)))
    try:
        checked = parser.instantiate(parser.parse_object(arguments)).as_dict()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what}: {name}: {reason}") from None
    values = {**given, **checked}
    named = {key: values[key] for key in keys if key in values}
    if options:
        named[OPTIONS] = _options_class(constructor)(**{key: values[key] for key in options if key in values})
    return constructor(**named)


@lru_cache(maxsize=256)
def _parser(constructor: Callable, skipped: frozenset[str]) -> ArgumentParser:
    """Checks values against the constructor's annotations, all but those of the arguments `skipped`."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(constructor) else parser.add_function_arguments
    add(constructor, skip=set(skipped))
    if OPTIONS in inspect.signature(constructor).parameters:
        parser.add_class_arguments(_options_class(constructor), skip=set(skipped))
    return parser


def _accepted(constructor: Callable) -> tuple[list[str], list[str]]:
    """The keys that a constructor takes as its own arguments, and those that are fields of its options."""
    keys = list(inspect.signature(constructor).parameters)
    if OPTIONS not in keys:
        return keys, []
    return [key for key in keys if key != OPTIONS], list(inspect.signature(_options_class(constructor)).parameters)


def _options_class(constructor: Callable) -> type:
    return get_type_hints(constructor)[OPTIONS]
