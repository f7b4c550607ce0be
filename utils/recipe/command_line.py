"""The command line of train.py and train_kd.py: recipe files, flags, and the flags of the published READMEs."""

from __future__ import annotations

import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from datasets.files import describe
from utils.recipe.registry import nearest
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe, Training

METHODS = ROOT / "configs" / "methods"
SWITCHES = ("--resume", "--allow_leak")
DEFAULT_KD = ROOT / "configs" / "default_kd.yaml"
# Methods of classification by dataset; everywhere else DEFAULT_KD.
DEFAULT_METHODS = {"hdkd": "hdkd", "dermamnist": "skin_lesion", "dermamnist_hdkd": "hdkd", "isic": "combined"}
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


def _methods() -> list[str]:
    return sorted(path.stem for path in METHODS.glob("*.yaml"))


def _method(name: str) -> Path:
    if name not in _methods():
        raise ValueError(f"unknown --loss_type {name!r}{nearest(name, _methods())}; one of {', '.join(_methods())}")
    return METHODS / f"{name}.yaml"


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


def _default_method(configs: Sequence[str]) -> Path:
    """The method without --loss_type: the dataset's published one, hinton for other images, else DEFAULT_KD."""
    datasets = [Path(file).stem.removesuffix("_student") for file in configs]
    known = [DEFAULT_METHODS[name] for name in datasets if name in DEFAULT_METHODS]
    if known or any(map(_classifies, configs)):
        return METHODS / f"{known[0] if known else 'hinton'}.yaml"
    return DEFAULT_KD


def _why_default(method: Path) -> str:
    """Says which method trains without --loss_type, why, and how to get the published ones."""
    if method == DEFAULT_KD:
        why = "it gained most in this project's comparison (README, Which method helps)"
        others = ["emkd_as_published", "hlfd_as_published"]
    else:
        why = "it is the default for this data"
        others = [name for name in _methods() if name.endswith("_as_published") and name.startswith(method.stem)]
    published = f"; as published: {' or '.join(f'--loss_type {name}' for name in others)}" if others else ""
    return f"method: {method.stem}, because no --loss_type was given: {why}{published}"


def _classifies(file: str) -> bool:
    data = _content(file).get("data")
    return isinstance(data, dict) and data.get("name", "slices") != "slices"


def _expand(arguments: Sequence[str], recipe_class: type[Recipe]) -> list[str]:
    """Translates published spellings, and puts the recipe files in front so that flags win over them."""
    published = _published(recipe_class)
    configs: list[str] = []
    methods: list[str] = []
    dataset = None
    role = "student" if recipe_class is DistillationRecipe else "teacher"
    flags: list[str] = []
    data_paths: set[str] = set()
    queue = list(arguments)
    while queue:
        flag, separator, value = queue.pop(0).partition("=")
        if flag in (*published, "--config", "--dataset", "--loss_type"):
            if not separator:
                if not queue:
                    raise ValueError(f"{flag} needs a value")
                value = queue.pop(0)
            if flag == "--config":
                configs.append(value)
            elif flag == "--dataset":
                dataset = _recipes()[value] if value in _recipes() else _unknown_dataset(value)
            elif flag == "--loss_type":
                methods.append(str(_method(value)))
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
    given = any(flag.partition("=")[0] == "--distillation" for flag in flags)
    given = given or any("distillation" in _content(file) for file in configs)
    if recipe_class is DistillationRecipe and not methods and not given:
        methods = [str(_default_method(configs))]
        print(_why_default(Path(methods[0])), file=sys.stderr)
    return [f"--config={file}" for file in configs + methods] + flags


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the examples as they are written."""


def parse(recipe_class: type[Recipe], description: str, arguments: Sequence[str] | None = None) -> Recipe:
    """Reads a recipe from YAML files and flags; flags win, a later file wins over an earlier one.

    Exits with status 2 and one line on a wrong key or value, as argparse does.
    """
    parser = ArgumentParser(
        usage="%(prog)s [--config FILE ...] [--loss_type METHOD] [--KEY VALUE ...]",
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
        epilog="Published spellings also work: --dataset kits|lits, " + ", ".join(_published(recipe_class)) + ".\n"
        "--loss_type METHOD is configs/methods/METHOD.yaml: " + ", ".join(_methods()) + "; without it, where no\n"
        "recipe names terms, configs/default_kd.yaml (classification: the method of its dataset, or hinton).",
    )
    parser.add_argument("--config", action="config", help="recipe file; may be given more than once")
    parser.add_class_arguments(recipe_class)
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
