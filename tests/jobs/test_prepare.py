"""Around `nightcap prepare`, without Ray:

- an archive that is at work for more than 15 minutes is named once, with what to do; short ones are not
- what a run's record holds of its configuration gives that configuration back, for a replay; fields of other versions are left out
"""

import json
from dataclasses import asdict
from typing import Any

import pytest

from jobs import prepare
from jobs.options import restored
from jobs.prepare import PrepareConfig, SlowShards
from pipeline.samples.chain import ChainConfig
from pipeline.samples.filters import FilterConfig
from pipeline.samples.resize import PictureConfig
from pipeline.samples.tokens import TokenizerConfig


def test_an_archive_that_takes_long_is_named_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    monkeypatch.setattr(prepare.time, "monotonic", lambda: now_s)
    slow = SlowShards()

    def see(shard: str, at_s: float, *, committed: bool = False) -> str:
        nonlocal now_s
        now_s = at_s
        slow.see({"shard": shard, "committed": committed})
        return " ".join(capsys.readouterr().out.split())

    assert see("short.tar", 0) == see("long.tar", 10) == see("short.tar", 890, committed=True) == see("long.tar", 900) == ""
    assert see("short.tar", 905) == "", "its parts: an archive that was committed begins anew"
    said = see("long.tar", 911)
    assert said.startswith("long.tar is at work for more than 15 minutes") and "nightcap shard" in said
    assert see("long.tar", 5_000) == see("short.tar", 9_000) == ""


def test_a_configuration_comes_back_from_a_record() -> None:
    chain = ChainConfig(
        take=("image", "text"),
        picture=PictureConfig(short_side_px=99, crop="center"),
        tokens=TokenizerConfig(tokenizer="t", max_tokens=20, bucket_tokens=(8, 16)),
        filters=FilterConfig(profile="light", scripts=("Han",), max_aspect=2.5),
    )
    config = PrepareConfig(("a", "b"), output="o", chain=chain, format="webdataset", limit=3)
    record: dict[str, Any] = json.loads(json.dumps({**asdict(config), "an_option_of_another_version": 1}))
    assert restored(PrepareConfig, record) == config
    del record["chain"]["picture"]["crop"]
    assert restored(PrepareConfig, record).chain.picture == PictureConfig(short_side_px=99)
