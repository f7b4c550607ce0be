"""Comparing runs: paired by case, no claim without evidence, and nothing compared that is not the same."""

import json
import shutil

import numpy as np
import pytest
from run_folders import answer_rows, dice_rows, write_run
from sklearn import metrics

from scripts.compare import main
from utils.runs import comparison
from utils.runs.comparison import MEAN_DICE, case_dice, compare_runs, conclude, spread

CASES = [f"case_{number}" for number in range(20)]


def rows(values):
    return dice_rows(dict(zip(CASES, values, strict=False)))


def told(capsys, *arguments):
    """Status, lines on stdout, and the one line on stderr."""
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err.strip()


def line_of(out, name):
    return next(line for line in out if line.startswith(f"{name} - "))


def test_dice_of_a_case_is_averaged_over_seeds_and_classes():
    runs = [dice_rows(dice) for dice in ({"a": 0.2, "b": 0.4}, {"a": 0.4, "b": 0.8})]
    assert case_dice(runs, "tumor") == pytest.approx({"a": 0.3, "b": 0.6})
    assert case_dice(runs, None) == case_dice(runs, "tumor")


def test_a_constant_gain_is_found_and_a_random_one_is_not():
    noise = np.random.default_rng(0).normal(0, 0.1, (2, len(CASES)))
    plain = rows(0.5 + noise[0])
    better = rows(0.6 + noise[0] + 0.01 * noise[1])
    same = rows(0.5 + noise[1] - noise[1].mean() + noise[0].mean())
    found = compare_runs([better], [plain], MEAN_DICE, same_seeds=True)
    assert found.verdict == "better" and found.mean == pytest.approx(0.1, abs=0.01)
    assert compare_runs([same], [plain], MEAN_DICE, same_seeds=True).words == "no measurable difference"


def test_spread_is_the_standard_deviation_over_seeds():
    assert spread([0.5]) == "0.500"
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"  # sd of two values 0.2 apart: 0.2 / sqrt 2
    assert spread([0.5, float("nan")]) == "not defined"


def answers(seed: int, skill: float, images: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    target = np.arange(images) % classes
    logits = generator.normal(size=(images, classes)) + skill * np.eye(classes)[target]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target


def answer(number: int, probability: np.ndarray, target: int) -> dict:
    return {"case": f"{number:03d}", "target": int(target), "probability": list(probability)}


@pytest.mark.parametrize(("classes", "multiclass"), [(2, {}), (3, {"multi_class": "ovr"})])
def test_scores_are_those_of_scikit_learn(classes, multiclass):
    probability, target = answers(0, 1.0, classes=classes)
    probability = probability.round(1)  # ties
    probability /= probability.sum(1, keepdims=True)
    predicted = probability.argmax(1)
    assert comparison.accuracy(probability, target) == pytest.approx(metrics.accuracy_score(target, predicted))
    expected = metrics.balanced_accuracy_score(target, predicted)
    assert comparison.balanced_accuracy(probability, target) == pytest.approx(expected)
    score = probability if classes == 3 else probability[:, 1]
    expected = metrics.roc_auc_score(target, score, **multiclass)
    assert comparison.auroc(probability, target) == pytest.approx(expected)


def test_auroc_of_four_images_by_hand():
    # class 1 at .9 and .4, class 0 at .6 and .4: pairs (.9,.6) right, (.9,.4) right, (.4,.6) wrong, (.4,.4) half: 2.5/4
    positive = np.array([0.9, 0.4, 0.6, 0.4])
    area = comparison.auroc(np.stack([1 - positive, positive], 1), np.array([1, 1, 0, 0]))
    assert area == pytest.approx(0.625)


def test_a_better_classifier_is_distinguished_from_noise():
    target = answers(0, 1.0)[1]
    plain = [answers(seed, 1.0)[0] for seed in (1, 2)]
    again = [answers(seed, 1.0)[0] for seed in (3, 4)]
    better = [answers(seed, 2.0)[0] for seed in (5, 6)]
    groups = [
        [[answer(number, *pair) for number, pair in enumerate(zip(run, target, strict=True))] for run in group]
        for group in (plain, again, better)
    ]
    assert compare_runs(groups[2], groups[0], "accuracy", same_seeds=False).verdict == "better"
    assert compare_runs(groups[1], groups[0], "accuracy", same_seeds=False).verdict == "no measurable difference"


def test_classifiers_are_compared_by_image():
    def run(seed: int, skill: float) -> list[dict]:
        probability, target = answers(seed, skill)
        rows = [answer(number, *pair) for number, pair in enumerate(zip(probability, target, strict=True))]
        return rows[::-1] if seed % 2 else rows

    for score in ("accuracy", "balanced accuracy", "AUROC"):
        assert compare_runs([run(1, 2.0)], [run(2, 1.0)], score, same_seeds=True).verdict == "better"


def test_a_score_that_is_not_defined_is_said_to_be_so(tmp_path, capsys):
    one_class = np.zeros(12, int)
    for seed in (0, 1):
        write_run(tmp_path / f"r{seed}", answer_rows(np.linspace(0.1, 0.3 + 0.1 * seed, 12), one_class), seed)
    status, out, err = told(capsys, f"a={tmp_path}/r0", f"b={tmp_path}/r1", "--against", "a")
    assert (status, err) == (0, "")
    assert "b - a: AUROC is not defined: the score needs several images of each class" in out
    assert "b - a: pAUC is not defined: the score needs several images of each class" in out
    assert "nan" not in " ".join(out) and "not defined" in out[2]


def test_a_score_that_one_image_decides_is_no_finding():
    target = np.array([1] + [0] * 19)  # without image 0 there is no AUROC
    ours, theirs = ([answer_rows(np.random.default_rng(seed).uniform(0.1, 0.9, 20), target)] for seed in (0, 1))
    found = compare_runs(ours, theirs, "AUROC", same_seeds=True)
    assert conclude("AUROC", found, 20, "b", "a").endswith("not defined: the score needs several images of each class")


def test_several_groups_are_corrected_for_their_number(tmp_path, capsys):
    noise = np.array([1, -1, 2, -2, 3, -3, 1, -1]) / 100
    for seed, (name, gain) in enumerate({"a": 0 * noise, "b": 0.02 + noise, "c": noise, "d": noise[::-1]}.items()):
        write_run(tmp_path / name, rows(np.linspace(0.4, 0.6, 8) + gain), seed)
    given = [f"{name}={tmp_path}/{name}" for name in "abcd"]
    _, out, _ = told(capsys, *given[:2], "--against", "a")
    assert line_of(out, "b").endswith("one seed of b: b is better")
    _, out, _ = told(capsys, *given, "--against", "a")
    assert line_of(out, "b").endswith("no measurable difference (better if taken alone, not as one of 3)")


def test_other_targets_are_not_compared(tmp_path, capsys):
    values = dict(zip(CASES, np.linspace(0.5, 0.9, 20), strict=True))
    write_run(tmp_path / "a", dice_rows(values), 0)
    write_run(tmp_path / "b", dice_rows(values, dict.fromkeys(CASES, 100) | {"case_7": 0}), 1)
    status, out, err = told(capsys, f"a={tmp_path}/a", f"b={tmp_path}/b")
    assert (status, out) == (2, [])
    assert f"case_7, tumor: the target of {tmp_path}/a has 100 voxels, that of {tmp_path}/b has 0" in err
    assert f"python train.py --config {tmp_path}/b/config.yaml --mode test" in err and len(err.splitlines()) == 1
    status, _, err = told(capsys, f"a={tmp_path}/a,{tmp_path}/b")  # nor pooled
    assert status == 2 and "case_7" in err


def test_as_many_voxels_elsewhere_are_other_targets(tmp_path, capsys):
    for name, digest in (("a", "1"), ("b", "2")):
        digests = {"case_0": "0", "case_1": digest}
        write_run(tmp_path / name, dice_rows({"case_0": 0.5, "case_1": 0.6}), ord(name), target_digests=digests)
    status, _, err = told(capsys, f"a={tmp_path}/a", f"b={tmp_path}/b")
    assert status == 2 and f"case_1: the target of {tmp_path}/a is not that of {tmp_path}/b" in err


def test_images_of_other_classes_and_other_cases_are_not_compared(tmp_path, capsys):
    values = np.linspace(0.1, 0.9, 8)
    write_run(tmp_path / "a", answer_rows(values, [0, 1] * 4), 0)
    write_run(tmp_path / "b", answer_rows(values, [0, 1] * 3 + [1, 1]), 1)
    write_run(tmp_path / "c", answer_rows(values[:7], [0, 1] * 3 + [0]), 2)
    write_run(tmp_path / "d", dice_rows({"000": 0.5}), 3)
    write_run(tmp_path / "e", answer_rows(values, [0, 1] * 4), 4, split="other")
    for other, said in (
        ("b", f"006: the target of {tmp_path}/a is class 0, that of {tmp_path}/b is class 1"),
        ("c", "were not scored on the same cases and classes (1 are in one only, such as 007"),
        ("d", "the classes of the one: benign, malignant, of the other: tumor"),
        ("e", "the split of the one: split, of the other: other"),
    ):
        status, _, err = told(capsys, f"a={tmp_path}/a", f"b={tmp_path}/{other}")
        assert status == 2 and said in err and len(err.splitlines()) == 1


def test_a_run_given_twice_is_no_second_seed(tmp_path, capsys):
    run = write_run(tmp_path / "a", rows(np.linspace(0.5, 0.9, 8)), 0)
    (tmp_path / "link").symlink_to(run)
    shutil.copytree(run, tmp_path / "copy")
    for second in ("a", "a/", "link", "copy", "../" + tmp_path.name + "/a"):
        status, _, err = told(capsys, f"a={run},{tmp_path}/{second}")
        assert status == 2 and "are the same run, twice in a: give it once" in err
    status, _, err = told(capsys, f"a={run}", f"b={tmp_path}/copy")
    assert status == 2 and "in a and in b" in err
    write_run(tmp_path / "other", rows(np.linspace(0.5, 0.8, 8)), 0, weights_seed=5)
    status, _, err = told(capsys, f"a={run},{tmp_path}/other")
    assert (status, err) == (0, f"note: a: {run} and {tmp_path}/other have the same seed 0")


def test_seeds_are_paired_by_their_number(tmp_path, capsys):
    for group, gain in (("a", 0.0), ("b", 0.1)):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{group}{seed}",
                rows(np.linspace(0.4, 0.6, 8) + gain + 0.2 * seed),
                seed,
                2 * ord(group) + seed,
            )
    given = [f"a={tmp_path}/a0,{tmp_path}/a1", f"b={tmp_path}/b1,{tmp_path}/b0"]
    _, out, _ = told(capsys, *given, "--against", "a")
    assert "by seed +0.100, +0.100: b is better" in line_of(out, "b")


def test_groups_that_cannot_be_read(tmp_path, capsys):
    run = write_run(tmp_path / "a", rows(np.linspace(0.5, 0.9, 8)), 0)
    taught = write_run(tmp_path / "b", rows(np.linspace(0.5, 0.9, 8)), 1, teacher=run / "best.ckpt")
    (taught / "test.json").unlink()
    command = f"python train_kd.py --config {taught}/config.yaml --mode test"
    for given, said in (
        ([f"a={run}", f"a={taught}"], "there is a group a already"),
        (["a="], "a=: names no run"),
        (["a=,"], "a=,: names no run"),
        ([f"={run}"], "names no group"),
        ([str(run)], f"{run}: is not NAME=RUN[,RUN...]: write e.g. student={run}"),
        ([f"a={run}/best.ckpt"], f"{run}/best.ckpt: is a file: give the run's folder, {run}"),
        ([f"a={tmp_path}/none"], f"{tmp_path}/none: no such folder"),
        ([f"a={run}", f"b={taught}"], f"{taught}: has no test.json: {command} writes it"),
        ([f"a={run}", "--against", "a"], "no group comes after it"),
        ([f"a={run}", "--against", "b"], "--against b: no such group; one of a"),
    ):
        status, out, err = told(capsys, *given)
        assert (status, out) == (2, []) and said in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"rows": []}', b"[" * 100_000, "cut", "nan", "twice"]
)
def test_a_damaged_test_result_is_named(tmp_path, capsys, content):
    run = write_run(tmp_path / "a", rows(np.linspace(0.5, 0.9, 8)), 0)
    file = run / "test.json"
    if content == "cut":
        content = file.read_bytes()[:200]
    elif isinstance(content, str):
        known = json.loads(file.read_text())
        known["rows"][1] |= {"dice": float("nan")} if content == "nan" else {"case": "case_0"}
        content = json.dumps(known).encode()
    file.write_bytes(content)
    status, out, err = told(capsys, f"a={run}")
    assert (status, out) == (2, []) and err.startswith(f"compare: {file}: ") and len(err.splitlines()) == 1
    assert f"move it away; python train.py --config {run}/config.yaml --mode test writes it again" in err


def test_weights_changed_since_the_test_are_named(tmp_path, capsys):
    run = write_run(tmp_path / "a", rows([0.5, 0.6]), 0)
    shutil.copy(write_run(tmp_path / "b", rows([0.5, 0.6]), 1) / "best.ckpt", run)
    status, _, err = told(capsys, f"a={run}")
    assert status == 2 and f"{run}/test.json: was made by an earlier best.ckpt: python train.py" in err


def test_folders_with_commas_and_equal_signs(tmp_path, capsys):
    values = rows(np.linspace(0.5, 0.9, 8))
    for seed, name in enumerate(("x,y", "lr=1,2", "z")):
        write_run(tmp_path / name, values, seed)
    status, out, _ = told(capsys, f"a={tmp_path}/x,y,{tmp_path}/lr=1,2", f"b={tmp_path}/z")
    assert status == 0 and [line.split()[:2] for line in out[2:4]] == [["a", "2"], ["b", "1"]]


def test_runs_tested_on_other_images_are_no_seeds_of_one_group(tmp_path, capsys):
    values = rows(np.linspace(0.5, 0.9, 8))
    for seed, name in enumerate("abc"):
        write_run(tmp_path / name, values, seed, data_fingerprint="one" if name == "a" else "other")
    status, _, err = told(capsys, f"a={tmp_path}/a,{tmp_path}/b")
    assert status == 2 and "were tested on other images" in err
    status, _, err = told(capsys, f"a={tmp_path}/a", f"b={tmp_path}/b,{tmp_path}/c")
    assert status == 0 and err.startswith("note: ") and err.count("were tested on other images") == 1
