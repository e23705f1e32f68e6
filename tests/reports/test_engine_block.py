"""The page's block on engine and captions: what the record says of them, escaped; nothing for runs without."""

from dataclasses import asdict
from typing import Any

from pipeline.captions.account import Account, Meter, efficiency
from pipeline.captions.corpus import sketch_of, summary
from pipeline.reports.page import _environment


def block(record: dict[str, Any]) -> str:
    return _environment().get_template("engine.html.j2").render(record=record)


def test_the_block_says_how_busy_the_engine_was_and_what_starved_it() -> None:
    account = {
        "actor": "a",
        "calls": 9,
        "samples": 90,
        "tokens": 900,
        "span_s": 10.0,
        "busy_s": 4.0,
        "waited_input_s": 5.0,
        "waited_host_s": 1.0,
    }
    found = efficiency([account | {"alone_samples": 80, "alone_tokens": 800, "alone_s": 2.0}])
    assert found is not None and (found["busy"], found["starved_by"], found["samples_per_s"]) == (0.4, "read and decode", 9.0)
    assert (found["alone_samples_per_s"], found["alone_tokens_per_s"]) == (40.0, 400.0)
    text = block({"efficiency": found})
    assert "busy for 40 %" in text and "40.0 samples a second in its first calls" in text and "more CPUs" in text


def test_an_engine_that_never_waits_is_the_bottleneck_and_none_has_no_block() -> None:
    found = efficiency([{"actor": "a", "calls": 2, "samples": 2, "span_s": 1.0, "busy_s": 0.99}])
    assert found is not None and found["starved_by"] is None and "as it should be" in found["advice"]
    assert efficiency([]) is None and efficiency([{"actor": "a"}]) is None
    assert block({}).strip() == "" and block({"efficiency": None, "corpus": None}).strip() == ""


def test_captions_said_often_are_shown_escaped() -> None:
    import pyarrow as pa

    table = pa.table({"caption": ["<b>x</b> y"] * 5, "text": pa.array([None] * 5, pa.string()), "caption_index": [0] * 5})
    text = block({"corpus": summary(sketch_of(table))})
    assert "5 times: &lt;b&gt;x&lt;/b&gt; y" in text and "100.0 % of 5 captions" in text


def test_the_gallery_takes_several_captions_of_a_sample_in_their_order() -> None:
    import pyarrow as pa

    from pipeline.reports.facts import _Smallest

    chosen = _Smallest(5)
    for start in (0, 10):
        index = [at for at in range(start, start + 10) for _ in range(2)]
        captions = [f"{at} {number}" for at in range(start, start + 10) for number in range(2)]
        chosen.add(pa.table({"index": index, "caption": captions, "status": ["success"] * 20, "segments": [{"a": 1}] * 20}))
    shown = [row["caption"] for row in chosen.rows()]
    assert (
        len(shown) == 5
        and shown == sorted(shown, key=lambda one: (int(one.split()[0]), one))
        and sum(one.endswith("0") for one in shown) == 3
    )


def test_waiting_is_told_apart_by_whether_a_block_was_at_hand(monkeypatch: Any) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("pipeline.captions.account.time.perf_counter", lambda: clock["now"])
    meter = Meter("a")
    for arrived, entered, left in ((0.0, 0.0, 1.0), (0.0, 3.0, 4.0), (9.0, 10.0, 11.0)):
        clock["now"] = left
        meter.call(arrived, entered, 1, 5)
    found = meter.read()
    assert isinstance(found, Account) and (found.busy_s, found.span_s, found.waited_input_s, found.waited_host_s) == (3.0, 11.0, 5.0, 3.0)


def test_an_engine_whose_calls_overlap_is_rated_by_its_first_calls_at_full_slots(monkeypatch: Any) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("pipeline.captions.account.time.perf_counter", lambda: clock["now"])
    meter = Meter("a")
    for at in range(30):  # two a second beside each other, half of the slots in use at first, all of them later
        clock["now"] = 1.0 + at / 2
        meter.call(0.0, max(0.0, at / 2 - 0.5), 4, 20, 0.5 if at < 12 else 1.0)
    found = meter.read()
    assert (found.samples, found.alone_samples, found.alone_tokens) == (120, 36, 180)
    assert found.alone_s == 0.5 * 5.0 and found.busy_s == found.span_s == 15.5
    told = efficiency([asdict(found)])
    assert told is not None and told["alone_samples_per_s"] == 14.4
