"""Runs side by side: what failed, was stopped or is another run, and the places that runs train in."""

import fcntl
import os

import pytest

from scripts import leaderboard
from utils.leaderboard.execution import Slots, execute
from utils.leaderboard.measure import places
from utils.leaderboard.plan import PlannedRun


def counting(tmp_path, name, code="pass"):
    """A run that notes that it ran, then does `code`."""
    given = "' '.join(flag for flag in sys.argv[1:] if not flag.startswith('--output='))"
    program = f"import sys; open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + {given} + ';'); {code}"
    script = tmp_path / f"{name}.py"
    script.write_text(program)
    return PlannedRun(name, tmp_path / name, str(script), (), ())


def ran(tmp_path):
    file = tmp_path / "ran"
    return file.read_text() if file.is_file() else ""


def run_all(runs, slots=None, identity="same"):
    ended = execute(runs, lambda run: {"command": identity}, slots or Slots(), lambda finished: None)
    return {finished.run.name: finished.problem for finished in ended}


def test_a_failed_run_is_told_and_the_others_finish(tmp_path):
    runs = [counting(tmp_path, "a"), counting(tmp_path, "b", "sys.exit('no good')"), counting(tmp_path, "c")]
    problems = run_all(runs, Slots(2))
    assert problems["a"] is None and problems["c"] is None
    assert problems["b"] == "exit status 1: no good"


def test_a_run_that_is_killed_says_so_and_the_one_beside_it_on_the_gpu_finishes(tmp_path):
    killed = counting(tmp_path, "a", "import os; print('step 3', flush=True); os.kill(os.getpid(), 9)")
    beside = counting(tmp_path, "b", "import os; sys.exit(os.environ['CUDA_VISIBLE_DEVICES'] != '5')")
    slots = places(given("--gpus", "5", "--per_gpu", "2"))
    problems = run_all([killed, beside], slots)
    assert problems == {"a": "killed by SIGKILL (out of memory?): step 3", "b": None}
    assert slots.free == [0, 1]


def test_what_is_done_stays_and_what_failed_is_resumed(tmp_path):
    fails_once = (
        f"p = {str(tmp_path / 'once')!r}; import os; done = os.path.exists(p); open(p, 'w'); sys.exit(not done)"
    )
    runs = [counting(tmp_path, "a"), counting(tmp_path, "b", fails_once)]
    assert run_all(runs)["b"] is not None
    assert run_all(runs) == {"a": None, "b": None}
    assert ran(tmp_path) == "a;b;b--resume;"


def test_a_folder_of_another_command_or_teacher_is_never_taken(tmp_path):
    runs = [counting(tmp_path, "a")]
    run_all(runs)
    assert "another command" in run_all(runs, identity="other")["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/best.ckpt").write_bytes(b"")
    assert "not from a leaderboard" in run_all([counting(tmp_path, "b")])["b"]
    (tmp_path / "c").mkdir()  # all that was left of a start that was killed
    assert run_all([counting(tmp_path, "c")]) == {"c": None}
    assert ran(tmp_path) == "a;c;"


def test_a_run_that_another_process_still_trains_is_left_alone(tmp_path):
    outliving = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(10)'])"
    run = counting(tmp_path, "a", f"{outliving}; sys.exit('its leaderboard died')")
    assert "died" in run_all([run])["a"]  # what it started holds the log as a training does
    assert "another process trains this run" in run_all([run])["a"]
    assert ran(tmp_path) == "a;"


def test_no_training_outlives_an_error_of_the_leaderboard(tmp_path):
    slow = counting(tmp_path, "a", f"import time; time.sleep(5); open({str(tmp_path / 'late')!r}, 'w')")

    def report(finished):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        execute([slow, counting(tmp_path, "b")], lambda run: {"command": ""}, Slots(2), report)
    with (tmp_path / "a/log.txt").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it any more
    assert not (tmp_path / "late").exists()


def given(*flags):
    return leaderboard.build_parser().parse_args(["plan.yaml", *flags])


def test_gpus_are_shared_out_and_cores_too(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("utils.leaderboard.execution.cores", lambda: 8)
    slots = places(given("--gpus", "0", "7", "--per_gpu", "2"))
    seen = [slots.environment(slot) for slot in slots.free]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0", "7", "0", "7"]
    assert {one["OMP_NUM_THREADS"] for one in seen} == {"2"}
    assert places(given("--gpus", "0", "7")).free == [0, 1]
    on_cpu = places(given("--jobs", "2")).environment(0)
    assert on_cpu["OMP_NUM_THREADS"] == "4"
    assert on_cpu.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_each_gpu_has_a_run_before_any_has_two():
    slots = Slots(4, ["0", "7"])
    for slot in [slots.take() for _ in range(4)][::-1]:
        slots.give_back(slot)
    assert [slots.environment(slots.take())["CUDA_VISIBLE_DEVICES"] for _ in range(2)] == ["0", "7"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
        (["--gpus", "0", "--per_gpu", "0"], "--per_gpu 0: give 1 or more"),
        (["--per_gpu", "2"], "--per_gpu 2: say on which GPUs"),
        (["--gpus", "0", "--jobs", "2"], "with --gpus give --per_gpu"),
        (["--gpus", "0", "0"], "give each GPU once"),
    ],
)
def test_places_that_mean_nothing_are_refused(flags, said):
    with pytest.raises(ValueError, match=said):
        places(given(*flags))
