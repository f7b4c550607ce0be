"""A teacher's answers read from disk are those it would give, and never another image's."""

import os
import time
from functools import partial

import pytest
import torch
from torch import nn

from utils.distillation.losses import DISTILLATION_LOSSES, TASK_LOSSES
from utils.distillation.objective import Distiller
from utils.distillation.taps import tap
from utils.distillation.teacher_cache import TeacherCache
from utils.distillation.terms import Task, Term


class Network(nn.Module):
    """Two convolutions; counts the images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = {"encoder1": "first"}
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 3, 1)
        self.seen = 0

    def forward(self, image):
        self.seen += len(image)
        return self.last(self.first(image).relu())


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return Network().eval()


def images(count=4, seed=1):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def cache_in(folder, *identity, limit_gb=1.0):
    return TeacherCache(folder, identity or ("teacher",), limit_gb)


@torch.no_grad()
def test_what_is_read_is_what_was_computed_and_the_teacher_is_asked_once(tmp_path, teacher):
    ask, taps = partial(tap, teacher), ["encoder1", "logits"]
    online = ask(images(), taps)
    teacher.seen = 0
    cache = cache_in(tmp_path)
    for _ in range(3):
        cached = cache(images(), taps, ask)
        assert all(torch.allclose(cached[name], online[name], atol=1e-6) for name in taps)
    assert teacher.seen == 4 and (cache.hits, cache.misses) == (8, 4)
    cache_in(tmp_path)(images(), taps, ask)  # the next run
    assert teacher.seen == 4


@torch.no_grad()
def test_a_batch_may_mix_known_and_new_images_in_any_order(tmp_path, teacher):
    cache, ask = cache_in(tmp_path), partial(tap, teacher)
    cache(images()[[2, 0]], ["logits"], ask)
    assert torch.allclose(cache(images(), ["logits"], ask)["logits"], ask(images(), ["logits"])["logits"], atol=1e-6)
    assert cache.misses == 4


@torch.no_grad()
@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.rot90(1, (-2, -1)), lambda x: x + 1e-6])
def test_another_view_or_preprocessing_is_another_image(tmp_path, teacher, change):
    cache, ask = cache_in(tmp_path), partial(tap, teacher)
    cache(images(), ["logits"], ask)
    other = change(images())
    assert torch.allclose(cache(other, ["logits"], ask)["logits"], ask(other, ["logits"])["logits"], atol=1e-6)
    assert cache.misses == 8


@torch.no_grad()
def test_another_teacher_is_never_read(tmp_path, teacher):
    cache_in(tmp_path, "one", "32-true")(images(), ["logits"], partial(tap, teacher))
    for identity in (("two", "32-true"), ("one", "bf16-mixed")):
        cache = cache_in(tmp_path, *identity)
        cache(images(), ["logits"], partial(tap, teacher))
        assert cache.hits == 0


@torch.no_grad()
def test_a_tap_that_is_asked_for_later_is_added(tmp_path, teacher):
    cache, ask = cache_in(tmp_path), partial(tap, teacher)
    cache(images(), ["logits"], ask)
    before = {file: file.stat().st_ino for file in tmp_path.rglob("*.safetensors")}
    cache(images(), ["encoder1"], ask)
    cache(images(), ["encoder1", "logits"], ask)
    # another process may be reading them
    assert len(before) == 4 and all(file.stat().st_ino == inode for file, inode in before.items())
    teacher.seen = 0
    assert set(cache(images(), ["encoder1", "logits"], ask)) == {"encoder1", "logits"}
    assert teacher.seen == 0


@torch.no_grad()
def test_the_disk_is_bounded_and_a_damaged_file_is_written_again(tmp_path, teacher):
    ask = partial(tap, teacher)
    one = 3 * 8 * 8 * 4  # bytes of an image's logits; a file has a header beside
    cache = cache_in(tmp_path, limit_gb=2.5 * one / 1e9)
    assert torch.allclose(cache(images(), ["logits"], ask)["logits"], ask(images(), ["logits"])["logits"], atol=1e-6)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(b"cut")
    again = cache_in(tmp_path)
    assert torch.allclose(again(images(), ["logits"], ask)["logits"], ask(images(), ["logits"])["logits"], atol=1e-6)
    assert (again.hits, again.misses) == (1, 3)
    assert cache_in(tmp_path)(images(), ["logits"], ask) is not None and not list(tmp_path.rglob("*.partial"))


@torch.no_grad()
def test_processes_share_one_limit(tmp_path, teacher):
    ask = partial(tap, teacher)
    one = 3 * 8 * 8 * 4 + 80  # bytes of a file of an image's logits: header beside
    caches = [cache_in(tmp_path, limit_gb=4.5 * one / 1e9) for _ in range(3)]  # all opened while nothing was there
    for number, cache in enumerate(caches):
        cache(images(seed=number), ["logits"], ask)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 4 and sum(file.stat().st_size for file in files) <= 4.5 * one


@torch.no_grad()
def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, teacher, monkeypatch, caplog):
    def full(_, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.distillation.teacher_cache.save_file", full)
    cache = cache_in(tmp_path)
    for _ in range(2):
        answers = cache(images(), ["logits"], partial(tap, teacher))
    assert torch.equal(answers["logits"], tap(teacher, images(), ["logits"])["logits"]) and teacher.seen == 12
    assert caplog.text.count("No space left on device") == 1 and not [*tmp_path.rglob("*.*")]


def test_half_files_of_killed_processes_are_removed_and_young_ones_are_not(tmp_path):
    folder = cache_in(tmp_path).folder
    for name, age in ((".old.1.partial", 7200), (".young.2.partial", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    cache_in(tmp_path)
    assert [file.name for file in folder.iterdir()] == [".young.2.partial"]


def test_a_distillers_losses_are_the_same_with_a_cache(tmp_path, teacher):
    target = torch.zeros(4, 1, 8, 8, dtype=torch.int64)
    losses = []
    for cache in (None, cache_in(tmp_path), cache_in(tmp_path)):
        torch.manual_seed(1)
        terms = {"soft": Term(DISTILLATION_LOSSES["soft_target"](), "logits", "logits", 1.0)}
        distiller = Distiller(Network(), Task(TASK_LOSSES["dice_ce"]()), teacher, terms)
        known = {} if cache is None else cache(images(), distiller.teacher_taps, distiller.ask)
        with distiller.knowing(known):
            losses.append(distiller(images(), target)["soft"].item())
    assert losses[0] > 0 and losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)


@torch.no_grad()
def test_answers_to_numbered_views_stay_in_memory(tmp_path, teacher):
    ask, room = partial(tap, teacher), 4 * 3 * 8 * 8 * 4
    cache = TeacherCache(tmp_path, ("teacher",), 1.0, views=4, room=lambda: room)
    expected = ask(images(), ["logits"])["logits"]
    cache(images()[[2, 0]], ["logits"], ask, views=[5, 1])
    teacher.seen = 0
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()  # nothing is read from there again
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        views = [[1, 0, 5, 7][position] for position in order]
        found = cache(images()[order], ["logits"], ask, views=views)["logits"]
        assert torch.allclose(found, expected[order], atol=1e-6)
    assert teacher.seen == 2 and (cache.hits, cache.misses) == (6, 4)


@torch.no_grad()
def test_answers_that_do_not_fit_into_memory_are_read_from_disk(tmp_path, teacher):
    ask, room = partial(tap, teacher), 4 * 3 * 8 * 8 * 4 - 1
    cache = TeacherCache(tmp_path, ("teacher",), 1.0, views=4, room=lambda: room)
    first, second = (cache(images(), ["logits"], ask, views=[0, 1, 2, 3])["logits"] for _ in range(2))
    assert torch.equal(first, second) and teacher.seen == 4
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    cache(images(), ["logits"], ask, views=[0, 1, 2, 3])
    assert teacher.seen == 8


def test_bfloat16_images_are_kept_apart_from_others(tmp_path, teacher):
    cache = cache_in(tmp_path)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache(images().bfloat16(), ["logits"], partial(tap, teacher))
        answer = cache(images().bfloat16(), ["logits"], partial(tap, teacher))["logits"]
    assert answer.dtype == torch.bfloat16 and cache.hits == 4


@torch.no_grad()
def test_the_time_that_reading_saves_is_told(tmp_path, teacher):
    ask = partial(tap, teacher)
    cache = cache_in(tmp_path)
    for _ in range(3):
        cache(images(), ["logits"], ask)
    assert cache.summary().startswith("teacher cache: 8 of 12 answers were known, read in ")
    again = cache_in(tmp_path)
    again(images(), ["logits"], ask)
    assert again.summary().endswith("the teacher was never asked")
