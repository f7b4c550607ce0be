"""scripts/Plan.py --budget: what is timed, and which candidate is best."""

import pytest
import torch
from raw_cases import kits_case, make

from utils.planning import budget
from utils.planning.budget import INT8, Forms, seconds_of, spend
from utils.planning.choices import PixelGrid
from utils.planning.sources import of_store

# Seconds of a volume by spacing (None: the finest) and network, in torch, and in int8
TIMES = {
    None: {"large": (9.0, 7.0), "small": (8.0, 6.0)},
    1.2: {"large": (5.0, 3.0), "small": (2.0, 1.0)},
    1.6: {"large": (0.5, 0.4), "small": (0.1, 0.1)},
}


@pytest.fixture
def store(tmp_path):
    """A store of 0.8 mm pixels whose source files are there."""
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    assert make(tmp_path / "raw", tmp_path / "kits") == 0
    return of_store(tmp_path / "kits", None)


@pytest.fixture
def clocked(monkeypatch):
    """Times are those of TIMES, and coarser pixels are too slow as well."""

    def known(fingerprint, case, grid, forms, int8, read):
        seconds = TIMES.get(grid.spacing, {}).get(forms.name, (99.0, 99.0))[int8]
        parameters = {"large": 10, "small": 1}[forms.name]
        engine = INT8 if int8 else "torch"
        pixel = grid.pixel(fingerprint)
        return [budget.Timing(grid.spacing, pixel, forms.name, parameters, engine, 1e3 * seconds, seconds)]

    monkeypatch.setattr(budget, "_time", known)


@pytest.mark.parametrize(
    ("limit", "best"),
    [
        (10.0, (None, "large", "torch")),
        (8.5, (None, "small", "torch")),  # at the finest pixels the small one fits, the large one does not
        (7.5, (None, "large", INT8)),  # in int8 both do
        (5.5, (1.2, "large", "torch")),
        (1.5, (1.2, "small", INT8)),
        (0.5, (1.6, "large", "torch")),
    ],
)
def test_the_finest_pixels_then_the_most_parameters(store, clocked, limit, best):
    found = spend(store, PixelGrid(), ["small", "large"], limit)
    assert (found.best.spacing, found.best.network, found.best.engine) == best
    assert found.spacing.value == best[0] and [row[""] for row in found.rows].count("best") == 1
    assert found.candidates[-1].spacing == best[0], "coarser pixels are not timed"


def test_it_says_how_long_the_other_networks_take(store, clocked, monkeypatch, capsys):
    """Clocked at 10 s a network, one of two leaves 10 s; one at the finest pixels fits, so nothing coarser is timed."""
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(budget, "_reading", lambda fingerprint, case: None)
    spend(store, PixelGrid(), ["small", "large"], 10.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["1 of 2 networks at 0.80 mm, about 10 s left"]


def test_where_nothing_fits_the_fastest_is_named(store, clocked):
    with pytest.raises(ValueError, match=r"--budget 0.05 s: the fastest, small at 1.6 mm with torch, takes 0.1 s"):
        spend(store, PixelGrid(), ["small", "large"], 0.05)


def test_a_volume_is_read_and_its_slices_are_labeled(store, monkeypatch, capsys):
    """10 ms to label and 10 ms to bring back a slice are 120 ms for six slices, and reading comes on top."""
    now = iter(range(1000))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(now) / 100)
    monkeypatch.setattr(budget, "is_installed", lambda engine: False)
    found = spend(store, PixelGrid(), ["espnet"], 10.0)
    assert found.read == pytest.approx(0.01) and found.volume == (6, 10, 12)
    assert found.best.milliseconds == pytest.approx(20) and found.best.seconds == pytest.approx(0.13)
    assert capsys.readouterr().err == "timed espnet at 0.80 mm with torch: 0.13 s\n"


def test_logits_are_brought_back_to_every_slice_of_the_source(tmp_path, monkeypatch):
    """Of six slices of 2.5 mm, two slabs of three are labeled, 10 ms each, and six slices brought back, 10 ms each."""
    for number in range(4):
        kits_case(tmp_path / "raw", number)
    assert make(tmp_path / "raw", tmp_path / "kits", "--slice_spacing", "7.5") == 0
    found = of_store(tmp_path / "kits", None)
    now = iter(range(1000))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(now) / 100)
    monkeypatch.setattr(budget, "is_installed", lambda engine: False)
    spent = spend(found, PixelGrid(None, found.slice_spacing), ["espnet"], 10.0)
    assert spent.best.seconds - spent.read == pytest.approx(0.08) and spent.best.milliseconds == pytest.approx(40)


def test_an_engine_that_cannot_run_a_network_is_left_out(store, monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, image):
            raise ValueError("fails")

    monkeypatch.setattr(Forms, "engines", lambda *_: {"broken": Broken(), "torch": torch.nn.Identity()})
    assert [each.engine for each in spend(store, PixelGrid(), ["espnet"], 10.0).candidates] == ["torch"]


def test_times_as_people_write_them():
    assert [seconds_of(text) for text in ("5 s", "500ms", "2 min", ".5", "5")] == [5, 0.5, 120, 0.5, 5]
    for text in ("soon", "-1 s", "0 s", "5 h"):
        with pytest.raises(ValueError, match="give a time for one volume"):
            seconds_of(text)
