"""Recipes: what train.py and train_kd.py run, and how a recipe is written beside its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Training:
    """How the objective is minimized.

    Args:
        epochs: passes over the training images, at most.
        patience: stop after this many epochs without a better score; null trains all epochs.
        batch_size: images per step, over all processes together.
        accumulate: parts that a step's images go through the networks in, one after the other, where they do not fit at
            once; batch normalization then sees one part at a time.
        optimizer: adam, adamw or sgd (momentum 0.9, Nesterov).
        learning_rate: the highest learning rate.
        minimum_learning_rate: where the cosine ends.
        schedule: after the warm-up: cosine or constant, per step, or plateau: the rate times plateau_factor once more
            than plateau_patience validations in a row have brought no better score.
        plateau_patience: see schedule.
        plateau_factor: see schedule.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: of the optimizer.
        clip_norm: largest gradient norm; null does not clip.
        precision: auto is bf16-mixed where the hardware has bf16, else 32-true.
        accelerator: auto, cpu or cuda.
        devices: processes on this machine; under torchrun its number is taken.
        sync_batchnorm: the student's batch normalization takes its statistics from the images of all processes, not of
            each one; for processes on GPUs.
        channels_last: memory format; `scripts/benchmarks/benchmark.py kd_step` shows which is faster for your networks.
        compile: torch.compile the objective.
        graph: auto captures a step as one CUDA graph, on one GPU, and says why where it cannot; never launches each
            kernel by itself.
        workers: processes that load training images, and as many again for validation; 0 loads in the main process. A
            split that a GPU holds (data.device_gb) needs none, and has none.
        log_every: steps between scalars in TensorBoard.
        share_every: steps between measurements of each term's share of the gradient; 0 never.
        validate_every: epochs between validations.
        checkpoint_minutes: minutes between checkpoints within an epoch.
        pictures: number of val cases drawn in TensorBoard.
    """

    epochs: int = 100
    patience: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1.0e-2
    minimum_learning_rate: float = 1.0e-6
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    plateau_patience: int = 2
    plateau_factor: float = 0.5
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    sync_batchnorm: bool = False
    channels_last: bool = True
    compile: bool = False
    graph: Literal["auto", "never"] = "auto"
    workers: int = 0
    log_every: int = 20
    share_every: int = 200
    validate_every: int = 1
    checkpoint_minutes: float = 10.0
    pictures: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "devices", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            *("workers", "share_every", "pictures", "checkpoint_minutes", "warmup_epochs", "plateau_patience"),
            *("weight_decay", "minimum_learning_rate"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} must be at least 0, got {getattr(self, name)}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"training.clip_norm must be positive, got {self.clip_norm}; null does not clip")
        if self.learning_rate <= 0:
            raise ValueError(f"training.learning_rate must be positive, got {self.learning_rate}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"training.patience must be at least 1, got {self.patience}; null trains all epochs")
        if self.schedule == "plateau" and self.warmup_epochs:
            raise ValueError("training.schedule plateau has no warm-up: leave training.warmup_epochs at 0")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"training.plateau_factor must lie between 0 and 1, got {self.plateau_factor}")


@dataclass
class Recipe:
    """What train.py runs: each section is a name from a registry and its constructor's arguments.

    Args:
        output: folder that receives checkpoints, TensorBoard events, scores and the recipe that ran.
        seed: of every random choice.
        data: dataset: {name: slices, root: FOLDER, task: tumor|organ|all, ...}; see datasets/registry.py.
        network: network to train: {name: raunet, ...}; see networks/__init__.py.
        task_loss: supervised loss: {name: dice_focal, ...}, `on: TAP` for another place than the logits; see
            utils/distillation/losses/__init__.py. null: no label is seen, and a teacher's answers are learned alone.
        task_weight: weight of the task loss.
        metric: what selects the best checkpoint on val: {name: volume_dice}; `against: teacher` takes the teacher's
            answers for targets, as it is without a task loss.
        method: the method of configs/methods that train_kd.py distils by; train.py does not use it.
        training: epochs, optimizer, precision and the like.
        mode: train, test (read the test split with best.ckpt), or both.
        resume: continue from OUTPUT/last.ckpt.
    """

    output: str = "runs/unnamed"
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    task_loss: dict[str, Any] | None = field(default_factory=lambda: {"name": "dice_focal"})
    task_weight: float = 1.0
    metric: dict[str, Any] = field(default_factory=lambda: {"name": "volume_dice"})
    method: str = ""
    training: Training = field(default_factory=Training)
    mode: Literal["train", "test", "both"] = "train"
    resume: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # what NumPy takes
            raise ValueError(f"seed must lie between 0 and 4294967295, got {self.seed}")
        if "maps" in self.data:
            raise ValueError("data.maps: soft maps are a teacher: give teacher: {maps: FOLDER} to train_kd.py")
        # YAML 1.1 reads a bare `on` as true.
        if self.task_loss is not None:
            self.task_loss = {"on" if key is True else key: value for key, value in self.task_loss.items()}


@dataclass
class DistillationRecipe(Recipe):
    """What train_kd.py runs: a recipe with a teacher and distillation terms.

    Args:
        teacher: the teacher's checkpoint (best.ckpt), or soft maps of its answers: {maps: FOLDER, classes: {THEIRS:
            OURS}}; `maps` may be a list of folders, and a class without an entry is the one of the same name.
        teachers: several checkpoints instead: [{name: NAME, path: FILE, weight: NUMBER or {CLASS: NUMBER}}]. Their
            logits are the weighted mean of their probabilities, and a term names a tap of one as NAME/TAP.
        distillation: terms, those of `method` where none are given: [{name: LOSS, student: TAP, teacher: TAP, weight:
            NUMBER, ...}].
        distillation_share: scale all terms alike so that their gradient norms add up to this multiple of the task
            loss's, measured after 32 steps on the task alone that are then undone; null takes the weights as they are.
        teacher_cache: folder that keeps the teacher's answers by image, for flips and quarter turns (eight views a
            slice); it may be shared by runs. Empty asks the teacher at every step.
        teacher_cache_gb: most disk that folder may take.
        allow_leak: accept a teacher that saw val or test patients of the student.
    """

    teacher: str | dict[str, Any] = ""
    teachers: list[dict[str, Any]] = field(default_factory=list)
    distillation: list[dict[str, Any]] = field(default_factory=list)
    distillation_share: float | None = None
    teacher_cache: str = ""
    teacher_cache_gb: float = 10.0
    allow_leak: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distillation_share is not None and self.distillation_share <= 0:
            raise ValueError(f"distillation_share must be positive, got {self.distillation_share}")
        if isinstance(self.teacher, dict):
            _check_soft_teacher(self.teacher)
        if self.teachers and self.teacher:
            raise ValueError("teacher and teachers are both given: leave one out")
        _check_teachers(self.teachers)
        if self.teachers and (self.task_loss is None or self.metric.get("against") == "teacher"):
            raise ValueError(
                "teachers: a student agrees with one teacher: make soft maps of several by scripts/TeachWith.py "
                "--checkpoint A B, and give teacher: {maps: FOLDER}"
            )
        if self.teacher_cache and self.maps:
            raise ValueError("teacher_cache: soft maps hold the teacher's answers already: leave it out")
        if self.teacher_cache and self.training.compile:
            raise ValueError("teacher_cache reads files at every step, which training.compile cannot: give up one")

    @property
    def maps(self) -> list[str]:
        """The folders of soft maps that teach; none where a network does."""
        return soft_folders(self.teacher)

    @property
    def networks_that_teach(self) -> dict[str, str]:
        """The checkpoints of the teachers by their names; of a single `teacher` the name is empty."""
        if isinstance(self.teacher, str) and self.teacher:
            return {"": self.teacher}
        return {each["name"]: each["path"] for each in self.teachers}


def _check_soft_teacher(teacher: dict[str, Any]) -> None:
    """Raises ValueError where the section of a teacher is not {maps, classes}."""
    wanted = "give {maps: FOLDER, classes: {THEIRS: OURS}}, or the checkpoint of a teacher"
    if unknown := [key for key in teacher if key not in ("maps", "classes")]:
        raise ValueError(f"teacher: has no key {unknown[0]!r}: {wanted}")
    folders = soft_folders(teacher)
    if not folders or not all(isinstance(folder, str) and folder for folder in folders):
        raise ValueError(f"teacher.maps: {teacher.get('maps')!r} is no folder: {wanted}")
    classes = teacher.get("classes", {})
    if not isinstance(classes, dict) or not all(isinstance(name, str) for pair in classes.items() for name in pair):
        raise ValueError(f"teacher.classes: {classes!r} are not names of classes: {wanted}")


def _check_teachers(teachers: list[dict[str, Any]]) -> None:
    """Raises ValueError where the sections of several teachers are not {name, path, weight}."""
    wanted = "give {name: NAME, path: FILE, weight: NUMBER or {CLASS: NUMBER}}"
    names = [each.get("name") for each in teachers]
    for number, each in enumerate(teachers, 1):
        if not {"name", "path"} <= each.keys() <= {"name", "path", "weight"}:
            raise ValueError(f"teachers[{number}]: has the keys {', '.join(each)}: {wanted}")
        if not str(each["name"]).isidentifier() or each["name"] == "self" or names.count(each["name"]) > 1:
            what = "of letters, digits and _, not 'self', and another for each"
            raise ValueError(f"teachers[{number}]: name {each['name']!r}: give a name {what}")
        weight = each.get("weight", 1)
        for value in weight.values() if isinstance(weight, dict) else [weight]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"teachers[{number}]: weight {value!r} is not a number from 0: {wanted}")


def soft_folders(teacher: str | dict[str, Any]) -> list[str]:
    """The folders of soft maps that a recipe's `teacher` names; none where it names a checkpoint."""
    maps = teacher.get("maps", []) if isinstance(teacher, dict) else []
    return maps if isinstance(maps, list) else [maps]


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for YAML and checkpoints."""
    return asdict(recipe)


def write(
    recipe: Recipe, folder: Path, remark: str | None = None, put: Callable[[Path, str], Any] = Path.write_text
) -> None:
    """Writes the configuration that runs to FOLDER/config.yaml, below a remark; it can be given to --config again."""
    run_state = {"mode", "resume"}
    values = {f.name: as_dict(recipe)[f.name] for f in fields(recipe) if f.name not in run_state}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    put(folder / "config.yaml", f"# {remark}\n{text}" if remark else text)
