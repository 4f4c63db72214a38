"""The cost of a fit: operations by formula, time without pauses, counters that start anew."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.tiny_models import tiny_model
from tseval.train import cost
from tseval.train.cost import Meter, Shape, reading_flops, shape_of, training_flops
from tseval.train.records import Adapter, Compute
from tseval.train.weights import with_adapter

SHAPE = Shape(parameters=100, adapter=10, layers=2, width=4, vocabulary=50)


def test_reading_costs_two_operations_a_parameter_and_token_and_a_square_for_attention() -> None:
    # 2 x 100 x 3 + 2 x 2 x 4 x 9 = 744; the second row 200 + 16; two logits 2 x 4 x 50 each.
    assert reading_flops(SHAPE, [3]) == 744
    assert reading_flops(SHAPE, [3, 1], scored=2) == 744 + 216 + 800


def test_training_costs_twice_the_frozen_weights_and_thrice_the_adapter() -> None:
    # 4 x 100 x 3 + 6 x 2 x 4 x 9 + 6 x 10 x 3 = 1812; two labels 4 x 4 x 50 each.
    assert training_flops(SHAPE, [3], 2) == 1812 + 1600
    assert training_flops(SHAPE, [3], 2, recomputed=True) == 1812 + 1600 + 744


def test_the_shape_of_a_student_tells_its_body_from_its_ends_and_its_adapter() -> None:
    model = with_adapter(tiny_model("llama"), Adapter(rank=2), 0)
    # A layer: attention 32 x (32 + 16 + 16 + 32), MLP 3 x 32 x 64, two norms; one norm behind.
    body = 3 * (32 * 96 + 3 * 32 * 64 + 64) + 32
    # Rank 2: two factors a product, of its width in and out.
    adapter = 3 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert shape_of(model) == Shape(body, adapter, 3, 32, 300)


def test_a_meter_adds_to_what_earlier_processes_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cost, "_gpu_counters", lambda: None)
    monkeypatch.setattr(cost, "_package_counters", lambda: None)
    meter = Meter("fit", Compute(phase="fit", seconds=5.0, tokens=7, flops=1.0, peak_bytes=1))
    meter.add(tokens=3, flops=2.0)
    now[0] = 14.0
    with meter.paused():
        now[0] = 114.0
    now[0] = 116.0
    found = meter.read()
    assert (found.seconds, found.tokens, found.flops) == (11.0, 10, 3.0)
    assert found.joules is None
    assert found.peak_bytes is not None
    assert found.peak_bytes > 1_000_000


@pytest.mark.skipif(not cost._CLEAR.exists(), reason="the system keeps no peak of a phase")
def test_memory_is_that_of_the_phase_without_its_pauses() -> None:
    def hold(size: int) -> None:
        bytearray(b"x") * size

    hold(400_000_000)
    meter = Meter("fit")
    before = meter.read().peak_bytes
    hold(100_000_000)
    own = meter.read().peak_bytes
    with meter.paused():
        hold(400_000_000)
    assert before is not None
    assert own is not None
    assert 90e6 < own - before < 200e6
    assert meter.read().peak_bytes == own


def test_energy_leaves_pauses_out_and_is_unknown_if_any_part_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = [100.0]
    monkeypatch.setattr(cost, "_gpu_counters", lambda: lambda: {"0": cost.Counter(read[0])})
    meter = Meter("fit", Compute(phase="fit", seconds=1.0, joules=50.0))
    unknown = Meter("fit", Compute(phase="fit", seconds=1.0))
    read[0] = 130.0
    with meter.paused():
        read[0] = 200.0
    read[0] = 201.0
    assert meter.read().joules == pytest.approx(50 + 30 + 1)
    assert unknown.read().joules is None


def test_a_package_counter_that_starts_anew_is_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, part = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for folder in (zone, part):
        folder.mkdir()
        (folder / "energy_uj").write_text("900000000\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
    read = cost._package_counters(tmp_path)
    assert read is not None
    # Parts of a package are in its figure already.
    assert read() == {"intel-rapl:0": cost.Counter(900.0, 1000.0)}
    monkeypatch.setattr(cost, "_gpu_counters", lambda: None)
    monkeypatch.setattr(cost, "_package_counters", lambda: read)
    energy = cost.Energy()
    (zone / "energy_uj").write_text("50000000\n")
    assert energy.joules() == pytest.approx(150.0)


def test_without_counters_there_is_no_energy(tmp_path: Path) -> None:
    assert cost._package_counters(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert cost._package_counters(tmp_path) is None


@pytest.mark.parametrize("expected", [True, False])
def test_a_machine_without_counters_has_none_but_a_mistake_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError("no driver") if expected else TypeError("a mistake")

    fake = SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    if expected:
        assert cost._gpu_counters() is None
        return
    with pytest.raises(TypeError, match="a mistake"):
        cost._gpu_counters()
