"""The chain of one sample:

- the row has every column of schema.PREPARED; pictures, recordings and clips come out as the normalisers alone make them
- a text is normalised and tokenised; several are references; one that is empty, or has no tokens, rejects
- texts that are read ahead of their turn give the same rows
- what a filter removes before decoding is never decoded; the reason is the filter's
- a chain whose step needs a column that none before adds is refused when it is built, with both names
- bad input: a clip without pictures, a recording without samples, rubbish
"""

import io
import json
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipeline import schema
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.chain import GIVEN, Chain, ChainConfig, Item, Step, check
from pipeline.samples.filters import FilterConfig
from pipeline.samples.group import Field
from pipeline.samples.medium import modality_of
from pipeline.samples.resize import PictureConfig, normalise_picture
from pipeline.samples.tokens import Tokenizer, TokenizerConfig
from tests.samples.synthetic import clip, flac, jpeg, sound_only_mp4, words_tokenizer


def item(**fields: bytes) -> Item:
    members = tuple(Field(name, len(data), data) for name, data in fields.items())
    medium = next((field for field in members if modality_of(field.name)), None)
    return Item(members, medium, None if medium is None else modality_of(medium.name))


def run(given: Item, config: ChainConfig = ChainConfig(), tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    return Chain(config, tokenizer)(given)


def refused(given: Item, config: ChainConfig = ChainConfig(), tokenizer: Tokenizer | None = None) -> Reason:
    with pytest.raises(SampleError) as caught:
        run(given, config, tokenizer)
    return caught.value.reason


def test_a_picture_comes_out_as_the_normaliser_makes_it_and_every_column_is_there() -> None:
    data = jpeg(640, 480)
    row = run(item(jpg=data, txt="  Ein\u0308 &amp;  Bild ".encode()))
    assert set(row) | set(GIVEN) - {"item"} == set(schema.PREPARED.names)
    assert row["image"] == normalise_picture(data, "jpg", PictureConfig()).jpeg
    assert (row["width"], row["height"]) == (341, 256)
    assert row["text"] == "Ei\u0144 & Bild".replace("\u0144", "n\u0308") and row["token_ids"] is None
    assert row["audio"] is row["frames"] is None and row["flags"] == []


def test_a_recording_and_a_clip() -> None:
    recording = run(item(flac=flac(0.5, 8_000)))
    assert recording["sample_rate_hz"] == 16_000 and recording["duration_s"] == pytest.approx(0.5, abs=0.01) and recording["text"] is None
    moving = run(item(mp4=clip(12)), ChainConfig(frames=ChainConfig().frames.__class__(n_frames=3)))
    assert len(moving["frames"]) == len(moving["timestamps_s"]) == 3
    assert (moving["width"], moving["height"]) == Image.open(io.BytesIO(moving["frames"][0])).size
    assert moving["audio"] is None and moving["duration_s"] == pytest.approx(1.2, abs=0.02)


def test_texts_become_references_and_tokens() -> None:
    tokenizer = words_tokenizer("red cup blue sky")
    several = item(jpg=jpeg(40, 40), txt=b"red cup", json=json.dumps({"captions": ["red cup", "blue  sky", 3]}).encode())
    row = run(several, ChainConfig(tokens=TokenizerConfig(tokenizer="given", max_tokens=3)), tokenizer)
    assert row["text"] == "red cup" and row["references"] == ["red cup", "blue sky"]
    assert row["n_tokens"] == 4 and row["flags"] == ["truncated"]
    assert row["token_ids"][0] == tokenizer.begin_id and row["token_ids"][-1] == tokenizer.end_id and len(row["token_ids"]) == 3


def test_a_text_that_is_empty_or_missing_where_one_is_required_rejects() -> None:
    assert refused(item(jpg=jpeg(40, 40), txt=b" \x00 ")) is Reason.EMPTY_TEXT
    assert refused(item(jpg=jpeg(40, 40)), ChainConfig(require_text=True)) is Reason.EMPTY_TEXT
    assert refused(item(txt=b"\xff")) is Reason.EMPTY_TEXT
    assert run(item(txt=b"words alone"))["image"] is None


def test_a_text_without_tokens_rejects() -> None:
    config = ChainConfig(tokens=TokenizerConfig(tokenizer="given"))
    assert refused(item(jpg=jpeg(40, 40), txt=b"~"), config, words_tokenizer("red cup")) is Reason.EMPTY_TEXT


def test_what_is_removed_by_its_text_is_never_decoded() -> None:
    rubbish = item(jpg=b"no picture", txt=b"x")
    assert refused(rubbish) is Reason.UNDECODABLE
    assert refused(rubbish, ChainConfig(filters=FilterConfig(min_chars=3))) is Reason.FILTERED_TEXT_LENGTH


def test_filters_see_the_decoded_medium() -> None:
    blank = io.BytesIO()
    Image.new("RGB", (300, 300), (9, 9, 9)).save(blank, "JPEG")
    strict = ChainConfig(filters=FilterConfig(min_contrast=2.0, min_side_px=100))
    assert refused(item(jpg=blank.getvalue()), strict) is Reason.FILTERED_BLANK
    within = ChainConfig(filters=FilterConfig(min_contrast=2.0), picture=PictureConfig(short_side_px=400))
    assert refused(item(jpg=blank.getvalue()), within) is Reason.FILTERED_BLANK, "also where its bytes would be kept"
    assert refused(item(jpg=jpeg(90, 400)), strict) is Reason.FILTERED_RESOLUTION
    assert run(item(jpg=jpeg(300, 400)), strict)["image"] is not None
    assert refused(item(flac=flac(0.5, 8_000)), ChainConfig(filters=FilterConfig(min_source_rate_hz=16_000))) is Reason.FILTERED_SAMPLE_RATE


def test_texts_read_ahead_change_no_row() -> None:
    words = words_tokenizer("a few words of text and more")
    config = ChainConfig(take=("image", "text"), tokens=TokenizerConfig(tokenizer="here", max_tokens=5))
    texts = [b"a few", b"", b"words of text and more", b"\xff", b"a few", b"~", b"text " * 20_000]
    given = [item(txt=text, jpg=jpeg(40, 50)) for text in texts] + [item(json=b'{"captions": ["more", "words", "more"]}')]

    def rows(chain: Chain, items: list[Item]) -> list[Any]:
        found = []
        for one in items:
            try:
                found.append(chain(one))
            except SampleError as exc:
                found.append((exc.reason, exc.detail))
        return found

    apart, ahead = Chain(config, words), Chain(config, words)
    ahead.ahead([one.fields for one in given])
    assert rows(ahead, given) == rows(apart, given)
    ahead.ahead([one.fields for one in given])
    others = [item(txt=b"and more", jpg=jpeg(40, 50)) for _ in given]
    assert rows(ahead, others) == rows(apart, others), "what was read ahead is of those samples alone"


def test_bad_media_reject_with_their_reason() -> None:
    assert refused(item(mp4=sound_only_mp4())) is Reason.UNDECODABLE
    assert refused(item(wav=b"")) is Reason.EMPTY_MEDIUM
    assert refused(item(mp4=b"")) is Reason.EMPTY_MEDIUM
    assert refused(item(mkv=_track_without_frames())) is Reason.EMPTY_MEDIUM
    assert refused(item(m4a=clip(3))) is Reason.UNDECODABLE
    assert refused(item(jpg=b"rubbish")) is Reason.UNDECODABLE


def _track_without_frames() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as out:
        track: Any = out.add_stream("mpeg4", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        sound: Any = out.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.start_encoding()
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return data.getvalue()


def test_facts_hold_what_every_filter_may_ask() -> None:
    facts = Chain(ChainConfig(filters=FilterConfig(min_chars=99)), None).facts(item(jpg=jpeg(40, 50), txt=b"few"))
    assert (facts.width, facts.height, facts.text) == (40, 50, "few") and facts.pixels_hwc is not None
    assert facts.pixels_hwc.shape == (50, 40, 3) and facts.pixels_hwc.dtype == np.uint8


def test_a_chain_with_a_missing_column_is_refused_when_it_is_built() -> None:
    steps = Chain(ChainConfig(), None).steps
    with pytest.raises(ValueError, match="step medium needs facts; text adds it, but later"):
        check(steps[::-1])
    with pytest.raises(ValueError, match="step crop needs depth, which no step adds"):
        check([*steps, Step("crop", lambda row: None, ("depth",), ())])
    with pytest.raises(ValueError, match=r"no step adds token_ids, n_tokens"):
        check([step for step in steps if step.name != "tokenise"])


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(RequestError, match="--take picture"):
        ChainConfig(take=("picture",))
    with pytest.raises(RequestError, match="name a --tokenizer"):
        ChainConfig(filters=FilterConfig(min_text_tokens=3))
