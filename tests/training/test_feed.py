"""From prepared rows to batches:

- every row of a plan comes out once, with its place and seed, decoded to one shape;
- the same task gives the same tables; texts are cut with their end kept; what cannot be decoded is named;
- modalities mix in a batch, each block saying whose it is; padding has weight 0 and is not marked.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import schema
from pipeline.errors import RequestError, StoppedError
from pipeline.samples.resize import to_jpeg
from pipeline.samples.wave import encode_flac
from pipeline.storage import Folder
from pipeline.training.batches import collate
from pipeline.training.corpus import draw_held_out, held_out_once, open_corpus, read_rows
from pipeline.training.feed import FEED, FeedSpec, decode_rows, read_task, sample_seed
from pipeline.training.order import plan
from pipeline.training.progress import Progress, count
from tests.training.small import PX, picture, write_prepared

SPEC = FeedSpec(px=PX, max_tokens=8)


def test_every_row_comes_once_with_place_seed_and_pixels(tmp_path: Path) -> None:
    corpus = open_corpus(str(write_prepared(tmp_path, (13, 7), group_rows=4, gaps=True)))
    tasks = plan(corpus, corpus.universe({}), Progress(), seed=5, epochs=1)
    table = pa.concat_tables([table for task in tasks for table in read_task(task, corpus.files, SPEC)])
    assert table.schema == FEED and table.num_rows == 20
    seen = set()
    for row in table.to_pylist():
        stored = read_rows(corpus.files[row["file"]], ((row["row"], row["row"] + 1),)).to_pylist()[0]
        assert (row["shard"], row["index"], row["token_ids"]) == (stored["shard"], stored["index"], stored["token_ids"])
        assert row["seed"] == sample_seed(5, 0, row["shard"], row["index"]) >= 0
        pixels = np.frombuffer(row["image"], np.uint8).reshape(3, PX, PX).transpose(1, 2, 0)
        expected = picture(int(stored["key"][1:]))[0]
        assert np.abs(pixels.astype(int) - expected.astype(int)).mean() < 12
        seen.add((row["file"], row["row"]))
    assert seen == {(0, row) for row in range(13)} | {(1, row) for row in range(7)}


def test_a_task_gives_the_same_tables_again(tmp_path: Path) -> None:
    corpus = open_corpus(str(write_prepared(tmp_path)))
    task = plan(corpus, corpus.universe({}), Progress(), seed=5, epochs=1)[0]
    once, again = (list(read_task(task, corpus.files, SPEC)) for _ in range(2))
    assert once == again


def rows(*changes: dict[str, object]) -> pa.Table:
    plain = {"shard": "a.tar", "flags": []}
    return pa.Table.from_pylist([{**plain, "index": at, **change} for at, change in enumerate(changes)], schema=schema.PREPARED)


def decoded(table: pa.Table, spec: FeedSpec = SPEC) -> pa.Table:
    numbers = np.arange(table.num_rows)
    return decode_rows(table, spec, seed=0, epoch=0, files=numbers * 0, rows=numbers)


def jpeg(value: int = 99, side: int = PX, width: int = PX) -> bytes:
    return to_jpeg(np.full((side, width, 3), value, np.uint8), 95)


def test_long_texts_are_cut_and_keep_their_end() -> None:
    table = decoded(rows({"modality": "image", "image": jpeg(), "token_ids": [2, *range(10, 30), 3]}))
    assert table.column("token_ids").to_pylist() == [[2, 10, 11, 12, 13, 14, 15, 3]]


def test_texts_that_speak_of_sides_are_not_mirrored() -> None:
    texts = ["a left arrow", "clockwise", "Pointing RIGHT", "bright light", None]
    table = decoded(rows(*({"modality": "image", "image": jpeg(), "text": text} for text in texts)))
    assert table.column("mirror").to_pylist() == [False, False, False, True, True]


def test_a_picture_of_another_shape_is_cut_or_stretched() -> None:
    wide = rows({"modality": "image", "image": jpeg(side=40, width=90)})
    for fit in ("crop", "stretch"):
        table = decoded(wide, FeedSpec(px=PX, fit=fit))
        assert len(table.column("image")[0].as_py()) == 3 * PX * PX


def test_what_cannot_be_decoded_is_named() -> None:
    with pytest.raises(StoppedError, match=r"a\.tar:1: its prepared image cannot be decoded"):
        decoded(rows({"modality": "image", "image": jpeg()}, {"modality": "image", "image": b"no picture"}))


def mixed() -> pa.Table:
    tone = (1000 * np.sin(np.arange(1600) / 5)).astype(np.int16)
    return decoded(
        rows(
            {"modality": "image", "image": jpeg(10), "token_ids": [2, 5, 3]},
            {"modality": "audio", "audio": encode_flac(tone, 16_000), "sample_rate_hz": 16_000, "token_ids": [2, 5, 6, 7, 3]},
            {"modality": "video", "frames": [jpeg(20), jpeg(40)], "timestamps_s": [1.0, 1.5], "audio": encode_flac(tone[:800], 16_000)},
            {"modality": "image", "image": jpeg(30), "token_ids": [2, 3]},
        ),
        FeedSpec(px=PX, modalities=("image", "audio", "video")),
    )


def test_modalities_mix_in_a_batch_and_say_whose_they_are() -> None:
    fed = collate(mixed(), px=PX, pad_id=0)
    batch = fed.batch
    assert batch.pictures is not None and batch.recordings is not None and batch.clips is not None and batch.clips.sound is not None
    assert batch.pictures.rows_n.tolist() == [0, 3]
    assert batch.pictures.pixels_nchw.float().mean(dim=(1, 2, 3)).round().tolist() == pytest.approx([10, 30], abs=2)
    assert batch.recordings.rows_n.tolist() == [1] and batch.recordings.length_n.tolist() == [1600]
    assert batch.clips.rows_n.tolist() == [2] and batch.clips.times_nk.tolist() == [[0.0, 0.5]]
    assert batch.clips.frames_nkchw.shape == (1, 2, 3, PX, PX) and batch.clips.n_frames_n.tolist() == [2]
    assert batch.clips.sound.rows_n.tolist() == [2] and batch.clips.sound.length_n.tolist() == [800]
    assert batch.token_ids_bt.shape == (4, 5), "as long as the longest text"
    assert batch.token_mask_bt.sum(dim=1).tolist() == [3, 5, 1, 2]
    assert batch.weight_b.tolist() == [1, 1, 0, 1], "a row without a text teaches nothing"


def test_a_batch_without_any_text_still_has_a_word_to_ask_for() -> None:
    batch = collate(decoded(rows({"modality": "image", "image": jpeg(), "token_ids": None})), px=PX, pad_id=0).batch
    assert batch.token_ids_bt.tolist() == [[0, 0]] and batch.weight_b.tolist() == [0]


def test_media_that_the_model_does_not_take_are_absent() -> None:
    table = decoded(rows({"modality": "audio", "audio": b"never looked at", "token_ids": [2, 3]}))
    assert collate(table, px=PX, pad_id=0).batch.recordings is None


def test_padding_repeats_a_row_with_weight_0_and_is_not_marked() -> None:
    fed = collate(mixed().slice(0, 2), px=PX, pad_id=0, real=1, pad_rows_to=3)
    assert fed.batch.weight_b.tolist() == [1, 0, 0]
    assert fed.size == 1 and fed.row_b.tolist() == [0]
    assert torch.equal(fed.batch.token_ids_bt[0], fed.batch.token_ids_bt[2])


def test_rows_for_validation_are_drawn_once_and_stay(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", (60, 40))
    corpus, store = open_corpus(str(folder)), Folder(str(tmp_path / "out"))
    held = held_out_once(store, corpus, 0.1, 512, seed=1)
    assert sum(count(ranges) for ranges in held.values()) == 10
    write_prepared(folder, (60, 40, 30))
    assert held_out_once(store, open_corpus(str(folder)), 0.1, 512, seed=1) == held
    universe = corpus.universe(held)
    assert sum(count(ranges) for ranges in universe.values()) == 90
    assert draw_held_out(corpus, 0.01, 512, seed=1) == {}, "one sample tells nothing"


def test_a_folder_that_is_no_prepared_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no prepared"):
        open_corpus(str(tmp_path))
    path = tmp_path / "prepared/a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"shard": ["a"]}), path)
    with pytest.raises(RequestError, match="has no column index"):
        open_corpus(str(tmp_path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match="cannot be read as Parquet"):
        open_corpus(str(tmp_path))
