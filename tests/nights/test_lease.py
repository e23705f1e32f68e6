"""The lease, and the alarm:

- a lease holds others back only while it is fresh by any clock that is within its time, and its process lives; a dead run's,
  an old one, one from the future, one that cannot be read holds nobody back;
- whoever holds it renews it, and gives back only its own;
- alarms need the threshold and more than chance; few nights, small nights and nights like the others raise none; 0 switches off.
"""

import socket
import time
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.nights.drift import DriftConfig, Figures, alarms
from pipeline.nights.figures import figures_of
from pipeline.nights.lease import PATH, Lease, held, held_by, holds, parse
from pipeline.storage import Folder

LEASE = Lease(holder="h", night="2026-01-01", host="one", pid=1, renewed_s=1e9)


@given(st.floats(-1e10, 1e10), st.booleans(), st.booleans(), st.floats(-10, 0) | st.floats(1, 1e6))
def test_a_lease_holds_only_while_it_is_fresh_and_its_process_may_live(age_s: float, here: bool, lives: bool, ttl_s: float) -> None:
    lease = replace(LEASE, ttl_s=ttl_s)
    held_back = holds(lease, now_s=1e9 + age_s, host="one" if here else "two", alive=lambda pid: lives)
    if held_back:
        assert -1.01 * ttl_s <= age_s < 1.01 * ttl_s and (lives or not here) and ttl_s <= 86_400
    if 1 <= ttl_s <= 86_400 and 0 <= age_s < 0.9 * ttl_s and (lives or not here):
        assert held_back


@given(st.binary(max_size=40))
def test_what_cannot_be_read_holds_nobody_back(data: bytes) -> None:
    assert not holds(parse(data), now_s=0.0, host="one", alive=lambda pid: True)


def test_it_is_renewed_and_only_ones_own_is_given_back(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    with held(store, "me", "2026-01-01", ttl_s=0.25):
        first = parse(store.get(PATH))
        assert first is not None and held_by(store) == first
        time.sleep(0.2)
        second = held_by(store)
        assert second is not None and second.renewed_s > first.renewed_s
    assert not store.exists(PATH) and held_by(store) is None
    with held(store, "me", "2026-01-01"):
        store.put(PATH, replace(LEASE, holder="another").to_json())
    assert store.exists(PATH)


def test_a_lease_of_a_process_that_is_gone_holds_nobody_back(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    dead = replace(LEASE, host=socket.gethostname(), pid=2**22 + 1, renewed_s=time.time())
    store.put(PATH, dead.to_json())
    assert held_by(store) is None
    store.put(PATH, replace(dead, host="another").to_json())
    assert held_by(store) is not None and held_by(store, now_s=time.time() + 400) is None


NIGHT = Figures(
    samples=10_000, rejected=0.01, length=50.0, length_error=0.2, captions=9_900, duplicates=0.1, samples_per_s=100.0, removed=0.0
)
CONFIG = DriftConfig()


def names(tonight: Figures, config: DriftConfig = CONFIG, nights: int = 3) -> list[str]:
    return [alarm.name for alarm in alarms(tonight, [NIGHT] * nights, config)]


def test_each_figure_has_its_alarm() -> None:
    assert names(NIGHT) == []
    assert names(replace(NIGHT, rejected=0.05)) == ["rejected"]
    assert names(replace(NIGHT, length=30.0)) == names(replace(NIGHT, length=70.0)) == ["length"]
    assert names(replace(NIGHT, duplicates=0.2)) == ["duplicates"]
    assert names(replace(NIGHT, samples_per_s=40.0)) == ["speed"]
    assert names(replace(NIGHT, removed=0.5), nights=0) == ["removed"]
    assert names(replace(NIGHT, rejected=0.0, duplicates=0.0, samples_per_s=900.0)) == [], "better is no alarm"


def test_chance_few_nights_and_small_nights_raise_none() -> None:
    assert names(replace(NIGHT, samples=200, rejected=0.035)) == [], "7 of 200 instead of 2 is chance"
    assert names(replace(NIGHT, length=30.0, length_error=10.0)) == []
    assert names(replace(NIGHT, rejected=0.5), nights=2) == []
    assert names(replace(NIGHT, rejected=0.5, samples=199)) == []
    off = DriftConfig(rejects=0, length=0, duplicates=0, speed=0, removed=0)
    assert names(Figures(samples=10_000, rejected=1.0, length=1.0, captions=9, duplicates=1.0, samples_per_s=0.1, removed=1.0), off) == []


share = st.one_of(st.none(), st.floats(0, 1))


@given(st.integers(0, 10**6), share, share, st.lists(st.tuples(st.integers(0, 10**6), share), max_size=20))
def test_an_alarm_always_passes_its_threshold(
    samples: int, rejected: float | None, removed: float | None, before: list[tuple[int, float | None]]
) -> None:
    tonight = Figures(samples=samples, rejected=rejected, captions=samples, duplicates=rejected, removed=removed)
    for alarm in alarms(tonight, [Figures(samples=n, rejected=r) for n, r in before], CONFIG):
        assert alarm.value - alarm.usual > alarm.limit and alarm.sentence


def test_duplicates_and_lengths_of_captions() -> None:
    found = figures_of([2, 4, 4, 2], [7, 8, 8, 9])
    assert (found.captions, found.length, found.duplicates) == (4, 3.0, 0.5) and found.length_error > 0
    assert figures_of([], []).length is None
