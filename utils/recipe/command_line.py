"""The command line of train.py and train_kd.py: recipe files, flags, and the flags of the published READMEs."""

from __future__ import annotations

import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from datasets.files import describe
from utils.recipe.methods import DEFAULT, DEFAULT_OF_IMAGES, method_file, method_names, published_forms
from utils.recipe.registry import nearest
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe, Training

SWITCHES = ("--resume", "--allow_leak")
HDKD = {"teacher_model": "teacher", "student_model": "student", "HDKD": "student"}  # its command names no dataset


def _published(recipe_class: type[Recipe]) -> dict[str, Callable[[str], list[str]]]:
    """Flags of the published READMEs, each with what it says in the recipe's own words."""

    def path(name: str) -> Callable[[str], list[str]]:
        return lambda value: [f"--{name}={value}"]

    def network(value: str) -> list[str]:
        return [f'--network={{"name": "{value}"}}']

    flags = {
        "--model": network,
        "--checkpoint_path": path("output"),
        "--train_data_path": path("data.root"),
        "--test_data_path": path("data.root"),
        "--data-path": path("data.root"),
        "--batch_size": path("training.batch_size"),
        "--batch-size": path("training.batch_size"),
        "--epochs": path("training.epochs"),
        "--lr": path("training.learning_rate"),
        "--task": path("data.task"),
    }
    if recipe_class is DistillationRecipe:
        flags |= {"--tckpt": path("teacher"), "--teacher-path": path("teacher"), "--smodel": network}
    return flags


def _recipes() -> dict[str, str]:
    """The datasets that have recipes, by what --dataset may call them."""
    names = [path.stem.removesuffix("_teacher") for path in (ROOT / "configs").glob("*_teacher.yaml")]
    return {name: name for name in sorted(names)} | {"kits": "kits19"}


def _unknown_dataset(name: str) -> str:
    raise ValueError(
        f"no recipes for --dataset {name}; there are {', '.join(_recipes())}; for other data give --config FILE"
    )


def _content(file: str) -> dict[str, Any]:
    """What a recipe file says. Raises ValueError where it is not a recipe, and OSError."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is not UTF-8: save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: is not a recipe: give `key: value` lines, as the files in configs/ have them")
    return content


def _with_method(configs: Sequence[str], asked: str | None, terms_given: bool) -> list[str]:
    """Arguments for the recipe files and for `method`, with the file of the method behind the one that names it.

    The last that says what to distil counts: first a recipe with `distillation` or `method`, then --loss_type (asked),
    then --distillation (terms_given). A recipe with both keys, such as a run's config.yaml, holds its terms already.
    Where nothing says it, the default does. A method that no flag asked for is printed.
    """
    files, method = [str(file) for file in configs], ""
    if asked is not None and not terms_given:
        files, method = [*files, str(method_file(asked, "--loss_type"))], asked
    elif not terms_given:
        naming = [file for file in files if {"method", "distillation"} & _content(file).keys()]
        if not naming:
            naming = [str(DEFAULT_OF_IMAGES if any(map(_classifies, files)) else DEFAULT)]
            files += naming
        said = _content(naming[-1])
        method = str(said.get("method") or "")
        if "distillation" not in said:
            files.insert(files.index(naming[-1]) + 1, str(method_file(method, naming[-1])))
            print(_origin(method, naming[-1]), file=sys.stderr)
    return [*(f"--config={file}" for file in files), f"--method={method}"]


def _origin(method: str, file: str) -> str:
    """A line about a method that no flag asked for: which file names it, and how to get the published form."""
    why = f"named by {file}"
    published = published_forms(method)
    if file == str(DEFAULT):
        why = "the default, which gained most in this project's comparison (docs/results.md)"
        published = ["emkd_as_published", "hlfd_as_published"]
    elif file == str(DEFAULT_OF_IMAGES):
        why = "the default of classification"
    flags = " or ".join(f"--loss_type {name}" for name in published)
    return f"method: {method}: {why}" + (f"; as published: {flags}" if flags else "")


def _classifies(file: str) -> bool:
    data = _content(file).get("data")
    return isinstance(data, dict) and data.get("name", "slices") != "slices"


def _expand(arguments: Sequence[str], recipe_class: type[Recipe]) -> list[str]:
    """Translates published spellings, and puts the recipe files in front so that flags win over them."""
    published = _published(recipe_class)
    configs: list[str] = []
    dataset, asked, terms_given = None, None, False
    role = "student" if recipe_class is DistillationRecipe else "teacher"
    flags: list[str] = []
    data_paths: set[str] = set()
    queue = list(arguments)
    while queue:
        flag, separator, value = queue.pop(0).partition("=")
        terms_given = terms_given or flag == "--distillation"
        if flag in (*published, "--config", "--dataset", "--loss_type", "--method"):
            if not separator:
                if not queue:
                    raise ValueError(f"{flag} needs a value")
                value = queue.pop(0)
            if flag == "--config":
                configs.append(value)
            elif flag == "--dataset":
                dataset = _recipes()[value] if value in _recipes() else _unknown_dataset(value)
            elif flag in ("--loss_type", "--method"):
                asked = value
            else:
                if flag in ("--model", "--smodel") and value in HDKD:
                    dataset, role = dataset or "hdkd", HDKD[value]
                flags += published[flag](value)
                if flag.endswith("_data_path"):
                    data_paths.add(value)
        elif flag == "--use_smote" and not separator:
            flags.append("--data.smote=classes_distribution.json")
        elif flag in SWITCHES and not separator and (not queue or queue[0].startswith("--")):
            flags.append(f"{flag}=true")
        else:
            flags.append(flag + separator + value)
    if len(data_paths) > 1:
        raise ValueError(
            f"--train_data_path and --test_data_path differ ({', '.join(sorted(data_paths))}): a slice folder "
            "holds all splits in its index.csv; give the same folder to both"
        )
    if not configs:
        configs = [str(ROOT / "configs" / f"{dataset or 'kits19'}_{role}.yaml")]
    for file in configs:
        if not Path(file).is_file():
            known = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
            raise ValueError(f"no recipe at {file}{nearest(file, known)}")
        _content(file)
    if recipe_class is DistillationRecipe:
        return _with_method(configs, asked, terms_given) + flags
    if asked is not None:
        raise ValueError(f"--loss_type {asked}: train.py trains without a teacher; give it to train_kd.py")
    return [f"--config={file}" for file in configs] + flags


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the examples as they are written."""


@lru_cache(maxsize=8)
def _parser(recipe_class: type[Recipe], description: str, program: str) -> ArgumentParser:
    """The flags of a recipe; a parser takes longer to make than to use."""
    parser = ArgumentParser(
        prog=program,
        usage="%(prog)s [--config FILE ...] [--loss_type METHOD] [--KEY VALUE ...]",
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
        epilog="Published spellings also work: --dataset kits|lits, " + ", ".join(_published(recipe_class)) + ".\n"
        "--loss_type METHOD (or `method: METHOD` in a recipe) stands for the terms in configs/methods/METHOD.yaml:\n"
        + ", ".join(method_names())
        + ".\nWhere no recipe names one or has terms: configs/default_kd.yaml, or configs/default_kd_images.yaml.",
    )
    parser.add_argument("--config", action="config", help="recipe file; may be given more than once")
    parser.add_class_arguments(recipe_class)
    return parser


def parse(recipe_class: type[Recipe], description: str, arguments: Sequence[str] | None = None) -> Recipe:
    """Reads a recipe from YAML files and flags; flags win, a later file wins over an earlier one.

    Exits with status 2 and one line on a wrong key or value, as argparse does.
    """
    parser = _parser(recipe_class, description, Path(sys.argv[0]).name)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_other_encodings(arguments)
        if {"-h", "--help"}.isdisjoint(arguments):
            arguments = _expand(arguments, recipe_class)
        values = parser.parse_args(arguments)
        values.pop("config")
        recipe = _as_recipe(values, recipe_class)
        _refuse_copy(recipe, arguments)
        return recipe
    except OSError as error:
        parser.exit(2, f"error: {describe(error)}\n")
    except (ValueError, ArgumentError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")


def _refuse_other_encodings(arguments: Sequence[str]) -> None:
    """Raises ValueError for a name that is not UTF-8: the recipe that is written into the output cannot hold it."""
    for argument in arguments:
        if not argument.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in argument):
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ValueError(f"{shown}: its name is not UTF-8, which a recipe cannot hold: rename it, or link to it")


def _as_recipe(values: Any, recipe_class: type[Recipe]) -> Recipe:
    known = values.as_dict()
    known["training"] = Training(**known["training"])
    return recipe_class(**known)


def _refuse_copy(recipe: Recipe, arguments: Sequence[str]) -> None:
    """Raises ValueError where a copy of a run is to go on or be tested, and its recipe names the original's folder."""
    if not (recipe.resume or recipe.mode == "test") or any(flag.partition("=")[0] == "--output" for flag in arguments):
        return
    for file in (Path(flag.removeprefix("--config=")) for flag in arguments if flag.startswith("--config=")):
        folder = file.resolve().parent
        holds_run = any((folder / name).exists() for name in ("last.ckpt", "best.ckpt"))
        if holds_run and folder != Path(recipe.output).resolve():
            raise ValueError(
                f"{file}: writes to {recipe.output}, not to {folder}, which holds a run, too: give --output {folder} "
                f"for this one, or --output {recipe.output}"
            )
