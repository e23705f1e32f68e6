"""What a night will take, foretold:

- the estimate lies inside its interval, grows with the work, and is right where archives are alike and work is steady (property);
- the step that holds the others up is the one with the most work a worker; CPU workers an engine follow from their ratio;
- a forecast is compared with exactly the work that it was made for.
"""

import json
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.nights.forecast import PATH, Machine, Trial, compared, digest_of, forecast, foretold
from pipeline.storage import Folder

ONE = Machine(cpus=2, engines=1, gpus=0)


def trial(archives: tuple[tuple[int, int], ...] = ((1000, 10),), **more: float) -> Trial:
    known = {
        "startup_s": 10.0,
        "steady_s": 5.0,
        "steady_samples": 50,
        "decode_s": 1.0,
        "collate_s": 0.0,
        "engine_s": 10.0,
        "output_bytes": 5000,
        "memory_bytes": 1,
    }
    return Trial(archives=archives, samples=100, **{**known, **more})  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 1000)), min_size=1, max_size=5),
    st.lists(st.integers(1, 10**9), min_size=1, max_size=5),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(1, 64),
    st.integers(1, 8),
)
def test_estimates_lie_inside_their_intervals_and_grow_with_the_work(archives, sizes, decode_s, engine_s, cpus, engines) -> None:  # type: ignore[no-untyped-def]
    assume(sum(count for _, count in archives))
    machine = Machine(cpus=cpus, engines=engines, gpus=engines)
    given_trial = trial(tuple(archives), decode_s=decode_s, engine_s=engine_s)
    found, double = forecast(given_trial, sizes, machine, 2.0), forecast(given_trial, sizes * 2, machine, 2.0)
    assert found.cost is not None
    for estimate in (found.samples, found.seconds, found.gpu_hours, found.output_bytes, found.cost):
        assert estimate.low <= estimate.value * 1.000001 and estimate.value <= estimate.high * 1.000001
    assert (
        double.seconds.value >= found.seconds.value and abs(double.samples.value - 2 * found.samples.value) <= 1e-6 * double.samples.value
    )


def test_steady_work_on_archives_that_are_alike_is_foretold_exactly() -> None:
    found = forecast(trial(((1000, 10), (1000, 10))), [100_000] * 2, ONE, price_per_hour=3600.0)
    assert found.samples.value == 2000 and found.output_bytes.value == 100_000
    assert found.seconds.value == 10 + 2000 * 0.1 and found.cost is not None and found.cost.value == found.seconds.value
    assert found.seconds.low < 210 < found.seconds.high


def test_the_step_with_the_most_work_a_worker_holds_the_others_up() -> None:
    assert forecast(trial(), [1], ONE).bottleneck == "model"
    slow = forecast(trial(decode_s=50.0), [1], ONE)
    assert slow.bottleneck == "read and decode" and slow.cpus_per_engine == 5.0
    assert forecast(trial(decode_s=50.0), [1], Machine(cpus=8, engines=1, gpus=1)).bottleneck == "model"


def test_more_engines_take_less_time() -> None:
    four = forecast(trial(decode_s=0.1), [10_000_000], Machine(cpus=64, engines=4, gpus=4))
    assert 3.5 < forecast(trial(decode_s=0.1), [10_000_000], ONE).seconds.value / four.seconds.value < 4.5


def test_a_forecast_is_compared_with_the_work_it_was_made_for_only(tmp_path: Path) -> None:
    store, made = Folder(str(tmp_path)), forecast(trial(), [100_000] * 2, ONE).to_dict()
    assert foretold(store, "v", ["a"]) is None
    store.put(PATH, json.dumps({"version": "v", "stems": digest_of(["b", "a"]), **made}).encode())
    assert foretold(store, "v", ["a"]) is foretold(store, "w", ["a", "b"]) is None
    known = foretold(store, "v", ["a", "b"])
    assert known is not None and compared(known, 1.0, 3) is None
    found = compared(known, made["seconds"]["value"] * 1.1, 2)
    assert found is not None and found["within"] and abs(found["factor"] - 1.1) < 1e-9
    store.put(PATH, b"[]")
    assert foretold(store, "v", ["a", "b"]) is None
