"""Recipes: YAML files and flags, read into dataclasses and checked whole before any work."""

from __future__ import annotations

import difflib
import inspect
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "configs" / "methods"
SWITCHES = ("--resume", "--allow_leak")


@dataclass
class Training:
    """How the objective is minimized.

    Args:
        epochs: passes over the training slices.
        batch_size: images per step, over all processes together.
        optimizer: adam, adamw or sgd (momentum 0.9, Nesterov).
        learning_rate: the highest learning rate.
        minimum_learning_rate: where the cosine ends.
        schedule: cosine or constant, per step, after the warm-up.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: of the optimizer.
        clip_norm: largest gradient norm; null does not clip.
        precision: auto is bf16-mixed where the hardware has bf16, else 32-true.
        accelerator: auto, cpu or cuda.
        devices: processes on this machine; under torchrun its number is taken.
        channels_last: memory format; `scripts/benchmark.py kd_step` tells which is faster for your networks.
        compile: torch.compile the objective.
        workers: processes that load slices; 0 loads in the main process.
        log_every: steps between scalars in TensorBoard.
        share_every: steps between measurements of each term's share of the gradient; 0 never.
        validate_every: epochs between validations.
        checkpoint_minutes: minutes between checkpoints within an epoch.
        pictures: number of val slices drawn in TensorBoard.
    """

    epochs: int = 100
    batch_size: int = 16
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1.0e-2
    minimum_learning_rate: float = 1.0e-6
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    channels_last: bool = True
    compile: bool = False
    workers: int = 0
    log_every: int = 20
    share_every: int = 200
    validate_every: int = 1
    checkpoint_minutes: float = 10.0
    pictures: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"training.learning_rate must be positive, got {self.learning_rate}")


@dataclass
class Recipe:
    """What train.py runs: each section is a name from a registry and its constructor's arguments.

    Args:
        output: folder that receives checkpoints, TensorBoard events, scores and the recipe that ran.
        seed: of every random choice.
        data: dataset: {name: slices, root: FOLDER, task: tumor|organ|all, ...}.
        network: network to train: {name: raunet, ...}; see networks/__init__.py.
        task_loss: supervised loss: {name: dice_focal, ...}; see utils/losses/__init__.py.
        metric: what selects the best checkpoint on val: {name: volume_dice}.
        training: epochs, optimizer, precision and the like.
        mode: train, test (read the test split with best.ckpt), or both.
        resume: continue from OUTPUT/last.ckpt.
    """

    output: str = "runs/unnamed"
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    task_loss: dict[str, Any] = field(default_factory=lambda: {"name": "dice_focal"})
    metric: dict[str, Any] = field(default_factory=lambda: {"name": "volume_dice"})
    training: Training = field(default_factory=Training)
    mode: Literal["train", "test", "both"] = "train"
    resume: bool = False


@dataclass
class DistillationRecipe(Recipe):
    """What train_kd.py runs: a recipe with a teacher and distillation terms.

    Args:
        teacher: the teacher's checkpoint (best.ckpt).
        distillation: terms: [{name: LOSS, student: TAP, teacher: TAP, weight: NUMBER, ...}].
        allow_leak: accept a teacher that saw val or test patients of the student.
    """

    teacher: str = ""
    distillation: list[dict[str, Any]] = field(default_factory=list)
    allow_leak: bool = False


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
        "--batch_size": path("training.batch_size"),
        "--epochs": path("training.epochs"),
        "--lr": path("training.learning_rate"),
        "--task": path("data.task"),
    }
    if recipe_class is DistillationRecipe:
        flags |= {"--tckpt": path("teacher"), "--smodel": network}
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


def _expand(arguments: Sequence[str], recipe_class: type[Recipe]) -> list[str]:
    """Translates published spellings, and puts the recipe files in front so that flags win over them."""
    published = _published(recipe_class)
    configs: list[str] = []
    methods: list[str] = []
    dataset = "kits19"
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
                flags += published[flag](value)
                if flag.endswith("_data_path"):
                    data_paths.add(value)
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
        role = "student" if recipe_class is DistillationRecipe else "teacher"
        configs = [str(ROOT / "configs" / f"{dataset}_{role}.yaml")]
        if not methods and role == "student":
            methods = [str(METHODS / "emkd.yaml")]
    for file in configs:
        if not Path(file).is_file():
            known = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
            raise ValueError(f"no recipe at {file}{nearest(file, known)}")
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
        epilog="Published spellings also work: --dataset kits|lits, " + ", ".join(_published(recipe_class)) + ".\n"
        "--loss_type METHOD is configs/methods/METHOD.yaml: " + ", ".join(_methods()) + ".",
    )
    parser.add_argument("--config", action="config", help="recipe file; may be given more than once")
    parser.add_class_arguments(recipe_class)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if {"-h", "--help"}.isdisjoint(arguments):
            arguments = _expand(arguments, recipe_class)
        values = parser.parse_args(arguments)
        values.pop("config")
        return _as_recipe(values, recipe_class)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")


def _as_recipe(values: Any, recipe_class: type[Recipe]) -> Recipe:
    known = values.as_dict()
    known["training"] = Training(**known["training"])
    return recipe_class(**known)


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
        checked = parser.parse_object(arguments).as_dict()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what}: {name}: {reason}") from None
    return constructor(**checked, **given)


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for YAML and checkpoints."""
    return asdict(recipe)


def write(recipe: Recipe, folder: Path) -> None:
    """Writes the configuration that runs to FOLDER/config.yaml; it can be given to --config again."""
    run_state = {"mode", "resume"}
    values = {f.name: as_dict(recipe)[f.name] for f in fields(recipe) if f.name not in run_state}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text)
