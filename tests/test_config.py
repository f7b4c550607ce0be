"""Recipes are checked whole, and the published spellings mean what they say."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from datasets import DATASETS
from networks import NETWORKS
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.evaluation.metrics import METRICS
from utils.recipe.command_line import parse
from utils.recipe.methods import DEFAULT, DEFAULT_OF_IMAGES, METHODS
from utils.recipe.registry import build
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe, as_dict, write

RECIPES = sorted(set((ROOT / "configs").glob("*.yaml")) - {DEFAULT, DEFAULT_OF_IMAGES})


def read(arguments, recipe_class=Recipe):
    return parse(recipe_class, "test", arguments)


def fails(capsys, arguments, recipe_class=Recipe):
    with pytest.raises(SystemExit) as stop:
        read(arguments, recipe_class)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_published_training_command_works():
    recipe = read(["--model", "raunet", "--checkpoint_path", "DIR", "--lr", "0.5", "--epochs", "3", "--batch_size=8"])
    assert recipe.network == {"name": "raunet"}
    assert recipe.output == "DIR"
    assert (recipe.training.learning_rate, recipe.training.epochs, recipe.training.batch_size) == (0.5, 3, 8)


def test_the_published_distillation_command_works():
    recipe = read(["--tckpt", "DIR/best.ckpt", "--smodel", "resnet_18"], DistillationRecipe)
    assert recipe.teacher == "DIR/best.ckpt"
    assert recipe.network == {"name": "resnet_18"}
    assert recipe.distillation == terms_of("dice_attention")
    assert (recipe.method, recipe.distillation_share) == ("dice_attention", 3)


def terms_of(method):
    return yaml.safe_load((METHODS / f"{method}.yaml").read_text())["distillation"]


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ("kits19_student", "dice_attention"),
        ("liver_student", "dice_attention"),
        ("dermamnist_student", "skin_lesion"),
        ("dermamnist_hdkd_student", "hdkd"),
        ("isic_student", "combined"),
    ],
)
def test_without_loss_type_a_recipe_names_its_method_or_the_default_is_taken(config, method, tmp_path):
    renamed = tmp_path / "renamed.yaml"  # what a file is called decides nothing
    renamed.write_text((ROOT / f"configs/{config}.yaml").read_text())
    for arguments in (["--config", str(renamed)], ["--dataset", config.removesuffix("_student")]):
        recipe = read(arguments, DistillationRecipe)
        assert (recipe.method, recipe.distillation) == (method, terms_of(method))


def test_a_recipe_that_classifies_gets_a_default_that_can_be_used_whatever_its_name(tmp_path):
    mine = tmp_path / "moles.yaml"
    mine.write_text(yaml.safe_dump({"data": {"name": "image_folder", "root": "moles"}}))
    recipe = read(["--config", str(mine)], DistillationRecipe)
    assert (recipe.method, recipe.distillation) == ("hinton", terms_of("hinton"))


def test_the_last_that_says_what_to_distil_counts(tmp_path, capsys):
    mine, later = tmp_path / "mine.yaml", tmp_path / "later.yaml"
    mine.write_text("method: emkd\ndistillation_share: 2\n")
    recipe = read(["--config", str(mine)], DistillationRecipe)
    assert (recipe.method, recipe.distillation, recipe.distillation_share) == ("emkd", terms_of("emkd"), 2)
    assert f"method: emkd: named by {mine}; as published: --loss_type emkd_as_published" in capsys.readouterr().err
    write(recipe, tmp_path)  # a run's config.yaml: the name and the terms
    again = [f"--config={tmp_path / 'config.yaml'}"]
    assert as_dict(read(again, DistillationRecipe)) == as_dict(recipe)
    other = read([*again, "--loss_type=hinton"], DistillationRecipe)
    assert (other.method, other.distillation) == ("hinton", terms_of("hinton"))
    later.write_text("method: hdkd\n")
    other = read([f"--config={mine}", f"--config={later}"], DistillationRecipe)
    assert (other.method, other.network, other.distillation) == ("hdkd", {"name": "HDKD"}, terms_of("hdkd"))
    later.write_text("method: emkdd\n")
    error = fails(capsys, [f"--config={later}"], DistillationRecipe)
    assert f"{later}: unknown method 'emkdd'; did you mean 'emkd'" in error


def test_train_takes_no_method(capsys):
    assert read(["--config", str(ROOT / "configs/hdkd_student.yaml")]).network == {"name": "student_model"}
    assert "give it to train_kd.py" in fails(capsys, ["--loss_type", "emkd"])


@pytest.mark.parametrize("script", ["train", "train_kd"])
def test_help_and_a_wrong_flag_load_neither_torch_nor_monai(script):
    code = (
        f"import sys, {script} as script\n"
        "for flag in ('--help', '--training.epoch=3'):\n"
        "    sys.argv = ['script', flag]\n"
        "    try: script.main()\n"
        "    except SystemExit as end: print(end.code)\n"
        "heavy = {'torch', 'monai', 'lightning_fabric', 'tensorboard', 'numpy', 'scipy', 'pandas'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-3:] == ["0", "2", "set()"], done.stdout[-500:] + done.stderr


def test_terms_of_a_recipe_or_a_loss_type_are_not_joined_by_the_default(tmp_path):
    term = {"name": "soft_target", "student": "logits", "teacher": "logits", "weight": 2.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"distillation": [term]}))
    recipe = read(["--config", str(tmp_path / "mine.yaml")], DistillationRecipe)
    assert recipe.distillation == [term] and recipe.distillation_share is None
    student = str(ROOT / "configs/kits19_student.yaml")
    for flag in (["--distillation", json.dumps([term])], [f"--distillation={json.dumps([term])}"]):
        recipe = read(["--config", student, *flag], DistillationRecipe)
        assert recipe.distillation == [term] and recipe.distillation_share is None
    recipe = read(["--config", student, "--loss_type", "hinton"], DistillationRecipe)
    assert recipe.distillation == terms_of("hinton") and recipe.distillation_share is None
    assert not hasattr(read(["--config", student]), "distillation")  # train.py has none


def test_dataset_and_loss_type_choose_recipe_files():
    recipe = read(["--dataset", "lits", "--task", "organ", "--loss_type", "attn_kd"], DistillationRecipe)
    assert recipe.data["window"] == [-60, 140]
    assert recipe.data["task"] == "organ"
    assert [term["name"] for term in recipe.distillation] == ["attention_transfer"]


def test_flags_win_over_files_wherever_they_stand():
    recipe = read(["--seed", "7", "--config", str(ROOT / "configs/kits19_teacher.yaml"), "--data.crop", "128"])
    assert recipe.seed == 7
    assert recipe.data["crop"] == 128


def test_bare_switches_need_no_value():
    assert read(["--resume", "--seed", "1"]).resume
    assert read(["--allow_leak"], DistillationRecipe).allow_leak


def test_two_data_paths_are_refused(capsys):
    assert "same folder" in fails(capsys, ["--train_data_path", "a", "--test_data_path", "b"])


def test_misspelt_things_stop_the_run_and_suggest(capsys):
    assert "epoch" in fails(capsys, ["--training.epoch", "3"])
    assert "did you mean 'emkd'" in fails(capsys, ["--loss_type", "emk"], DistillationRecipe)
    assert "did you mean" in fails(capsys, ["--config", "configs/kits19_techer.yaml"])


def test_values_out_of_range_are_refused(capsys):
    assert "training.epochs must be at least 1, got 0" in fails(capsys, ["--epochs", "0"])
    for key in ("workers", "warmup_epochs", "weight_decay", "checkpoint_minutes", "share_every", "plateau_patience"):
        assert f"training.{key} must be at least 0, got -1" in fails(capsys, [f"--training.{key}=-1"])
    assert "seed must lie between 0 and 4294967295, got -1" in fails(capsys, ["--seed=-1"])
    for value in ("0", "-1"):  # a negative norm would turn every gradient round
        assert "training.clip_norm must be positive" in fails(capsys, [f"--training.clip_norm={value}"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a recipe"),
        (b"- a\n", "is not a recipe"),
        (b"output: [\n", "is not YAML"),
        (b"\toutput: x\n", "is not YAML"),
        ("output: x\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_recipe_file_that_cannot_be_read_is_named_in_one_line(tmp_path, capsys, content, words):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    error = fails(capsys, ["--config", str(file)])
    assert error.startswith(f"error: {file}: {words}") and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--training.precision=fp16"], ["--training.accelerator=mps"], ["--nonsense"]])
def test_a_wrong_flag_is_one_line(capsys, arguments):
    error = fails(capsys, arguments)
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "raunett"}, "did you mean 'raunet'"),
        ({"name": "unet", "width": [1, 2, 3, 4, 5]}, "did you mean 'widths'"),
        ({"name": "unet", "widths": "wide"}, "widths"),
        ({}, "unknown name None"),
    ],
)
def test_build_names_what_is_wrong(section, message):
    with pytest.raises(ValueError, match=message):
        build(NETWORKS, section, "network")


def test_build_gives_what_the_section_leaves_out():
    network = build(NETWORKS, {"name": "unet", "widths": [4, 4, 4, 4, 4], "num_classes": 5}, "network", num_classes=2)
    assert network.head.out_channels == 5


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_names_known_things(file):
    recipe = read([f"--config={file}"], DistillationRecipe)
    build(TASK_LOSSES, {key: value for key, value in recipe.task_loss.items() if key != "on"}, "task_loss")
    build(METRICS, recipe.metric, "metric", class_names=["benign", "malignant"])
    with torch.device("meta"):  # no weight is drawn
        build(NETWORKS, recipe.network, "network", num_classes=2, in_channels=1)
    assert recipe.data["name"] in DATASETS
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("script", [Recipe, DistillationRecipe])
def test_the_published_commands_of_hdkd_work(script):
    arguments = ["--model", "teacher_model", "--epochs", "200", "--batch-size", "16", "--data-path", "P"]
    if script is DistillationRecipe:
        arguments = ["--model", "HDKD", "--teacher-path", "T.pth", *arguments[2:]]
    recipe = read(arguments, script)
    assert recipe.data["name"] == "image_folder"
    assert recipe.data["root"] == "P"
    assert recipe.network == {"name": arguments[1]}
    assert (recipe.training.epochs, recipe.training.batch_size) == (200, 16)
    if script is DistillationRecipe:
        assert recipe.teacher == "T.pth"
        assert recipe.task_loss["on"] == "class_logits"
        assert {term["student"] for term in recipe.distillation} > {"distillation_logits"}


@pytest.mark.parametrize("key", ["on", '"on"'])
def test_the_head_of_the_task_loss_can_be_written_bare(tmp_path, key):
    file = tmp_path / "recipe.yaml"  # YAML 1.1 reads a bare `on` as true
    file.write_text(f"task_loss: {{name: cross_entropy, {key}: class_logits}}\n")
    assert read([f"--config={file}"]).task_loss == {"name": "cross_entropy", "on": "class_logits"}


def test_use_smote_names_the_published_file():
    assert read(["--model", "teacher_model", "--use_smote"]).data["smote"] == "classes_distribution.json"


@pytest.mark.parametrize("file", sorted(METHODS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_stacks_on_a_recipe(file):
    recipe = read([f"--config={ROOT / 'configs/phantom_student.yaml'}", f"--config={file}"], DistillationRecipe)
    assert recipe.data["root"] == "data/phantom"
    for term in recipe.distillation:
        arguments = {key: value for key, value in term.items() if key not in ("student", "teacher", "weight")}
        build(DISTILLATION_LOSSES, arguments, "distillation", num_classes=2)


def test_what_ran_can_be_given_again(tmp_path):
    recipe = read(["--dataset", "kits", "--loss_type", "hlfd", "--seed", "3"], DistillationRecipe)
    write(recipe, tmp_path)
    again = read([f"--config={tmp_path / 'config.yaml'}"], DistillationRecipe)
    assert as_dict(again) == as_dict(recipe)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--tckpt", "t.ckpt", "--smodel", "resnet_18"],
            ["dice_attention: the default", "--loss_type emkd_as_published"],
        ),
        (["--model", "HDKD", "--teacher-path", "t.ckpt"], ["method: hdkd", "--loss_type hdkd_as_published"]),
        (["--dataset", "dermamnist", "--teacher", "t.ckpt"], ["skin_lesion: named by", "dermamnist_student.yaml"]),
        (["--tckpt", "t.ckpt", "--smodel", "resnet_18", "--loss_type", "emkd_as_published"], []),
    ],
)
def test_a_default_method_is_printed_with_the_way_to_the_published_one(arguments, said, capsys):
    parse(DistillationRecipe, "", arguments)
    printed = capsys.readouterr().err
    assert all(part in printed for part in said) and printed.count("\n") == bool(said)


@pytest.mark.parametrize("flags", [["--resume"], ["--mode=test"]])
def test_a_copy_of_a_run_does_not_write_to_the_original(tmp_path, capsys, flags):
    original, copy = tmp_path / "original", tmp_path / "copy"
    copy.mkdir()
    config = copy / "config.yaml"
    config.write_text(f"output: {original}\n")
    given = ["--config", str(config)]
    assert read([*given, *flags]).output == str(original)  # a recipe that lies in no run
    (copy / "last.ckpt").touch()
    assert f"writes to {original}, not to {copy}, which holds a run, too" in fails(capsys, [*given, *flags])
    for output in (original, copy):
        assert read([*given, *flags, "--output", str(output)]).output == str(output)
    assert read(given).output == str(original)


def test_a_name_that_is_not_utf8_is_refused_in_one_line(capsys):
    said = fails(capsys, ["--data.root", "Klinik_M\udcfcnchen", "--output", "runs/x"])
    assert "its name is not UTF-8" in said and said.count("\n") == 1
