"""Recipes are checked whole, and the published spellings mean what they say."""

import json

import pytest
import yaml

from datasets import DATASETS
from networks import NETWORKS
from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.evaluation.metrics import METRICS
from utils.recipe.command_line import METHODS, parse
from utils.recipe.registry import build
from utils.recipe.schema import ROOT, DistillationRecipe, Recipe, as_dict, write

DEFAULT_KD = ROOT / "configs/default_kd.yaml"
RECIPES = sorted(set((ROOT / "configs").glob("*.yaml")) - {DEFAULT_KD})


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
    assert recipe.distillation == terms_of("configs/default_kd.yaml")


def terms_of(file):
    return yaml.safe_load((ROOT / file).read_text())["distillation"]


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ("kits19_student", "configs/default_kd.yaml"),
        ("liver_student", "configs/default_kd.yaml"),
        ("dermamnist_student", "configs/methods/skin_lesion.yaml"),
        ("dermamnist_hdkd_student", "configs/methods/hdkd.yaml"),
        ("isic_student", "configs/methods/combined.yaml"),
    ],
)
def test_without_loss_type_the_default_method_is_taken(config, method):
    recipe = read(["--config", str(ROOT / f"configs/{config}.yaml")], DistillationRecipe)
    assert recipe.distillation == terms_of(method)
    assert read(["--dataset", config.removesuffix("_student")], DistillationRecipe).distillation == terms_of(method)


def test_a_recipe_that_classifies_gets_a_default_that_can_be_used_whatever_its_name(tmp_path):
    mine = tmp_path / "moles.yaml"
    mine.write_text(yaml.safe_dump({"data": {"name": "image_folder", "root": "moles"}}))
    recipe = read(["--config", str(mine)], DistillationRecipe)
    assert recipe.distillation == terms_of("configs/methods/hinton.yaml")


def test_the_default_is_the_method_that_won_at_the_share_it_won_with():
    assert terms_of("configs/default_kd.yaml") == terms_of("configs/methods/dice_attention.yaml")
    assert read([], DistillationRecipe).distillation_share == 3


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
    assert recipe.distillation == terms_of("configs/methods/hinton.yaml") and recipe.distillation_share is None
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


@pytest.mark.parametrize("file", [*sorted(METHODS.glob("*.yaml")), DEFAULT_KD], ids=lambda path: path.stem)
def test_every_method_stacks_on_a_recipe(file):
    recipe = read([f"--config={ROOT / 'configs/phantom_student.yaml'}", f"--config={file}"], DistillationRecipe)
    assert recipe.data["root"] == "data/phantom"
    for term in recipe.distillation:
        arguments = {key: value for key, value in term.items() if key not in ("student", "teacher", "weight")}
        build(DISTILLATION_LOSSES, arguments, "distillation")


def test_what_ran_can_be_given_again(tmp_path):
    recipe = read(["--dataset", "kits", "--loss_type", "hlfd", "--seed", "3"], DistillationRecipe)
    write(recipe, tmp_path)
    again = read([f"--config={tmp_path / 'config.yaml'}"], DistillationRecipe)
    assert as_dict(again) == as_dict(recipe)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tckpt", "t.ckpt", "--smodel", "resnet_18"], ["method: default_kd", "--loss_type emkd_as_published"]),
        (["--model", "HDKD", "--teacher-path", "t.ckpt"], ["method: hdkd", "--loss_type hdkd_as_published"]),
        (["--dataset", "dermamnist", "--teacher", "t.ckpt"], ["method: skin_lesion", "default for this data"]),
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
    with pytest.raises(SystemExit):
        parse(Recipe, "", ["--data.root", "Klinik_M\udcfcnchen", "--output", "runs/x"])
    said = capsys.readouterr().err
    assert "its name is not UTF-8" in said and said.count("\n") == 1
