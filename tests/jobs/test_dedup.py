"""Dedup and tokenizer as jobs, on one local Ray:

- other sizes and codecs of a photograph go, the first stays; what cannot be read is counted and takes no part;
- archives added later change no decision; gzip and a cut archive are read as far as they go; another `--by` is refused;
- `drops_of` tells a shard's drops, and refuses shards that were never decided on, or have changed since;
- the tokenizer reads texts alone, gives the same file for archives in any order, and refuses another recipe in its folder.
"""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import tokenizer as tokenizer_job
from jobs.cluster import session
from jobs.dedup import DedupConfig, run
from jobs.tokenizer import TokenizerJobConfig
from pipeline.dedup.likeness import LikenessConfig
from pipeline.errors import Reason, RequestError
from pipeline.samples.drops import drop_options, drops_of
from pipeline.samples.text import TextConfig
from pipeline.samples.texts import EVERYTHING, TextSample, sample_texts
from pipeline.samples.tokens import Tokenizer


def photograph(seed: int, side_px: int, form: str) -> bytes:
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8))
    data = io.BytesIO()
    noise.resize((side_px * 4 // 3, side_px), Image.Resampling.BICUBIC).save(data, form)
    return data.getvalue()


def write(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def dedup(folder: Path, *by: str) -> None:
    config = DedupConfig((str(folder / "in"),), output=str(folder / "out"), likeness=LikenessConfig(by=by or ("media", "picture", "text")))  # type: ignore[arg-type]
    assert run(config) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_duplicates_over_archives_go_and_later_archives_change_nothing(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first = [("a.png", photograph(1, 300, "PNG")), ("a.txt", b"the first photograph of all"), ("b.jpg", photograph(2, 300, "JPEG"))]
    write(
        tmp_path / "in/0.tar",
        [*first, ("c.jpg", b"no picture"), ("d.txt", "貓在墊子上面睡覺 a text alone".encode()), ("e.jpg", b"no picture")],
    )
    write(
        tmp_path / "in/1.tar",
        [("a.jpg", photograph(1, 120, "JPEG")), ("b.jpg", photograph(2, 300, "JPEG")), ("c.jpg", photograph(3, 90, "JPEG"))],
    )
    with session("local", verbose=False):
        with pytest.raises(RequestError, match="has finished"):
            drop_options(out)
        dedup(tmp_path)
        assert drop_options(out)["by"] == ["media", "picture", "text"]
        before = {shard: drops_of(out, shard) for shard in ("0.tar", "1.tar")}
        assert before["0.tar"] == {}, "what cannot be read takes no part, though twice the same"
        assert {index: drop.detail for index, drop in before["1.tar"].items()} == {
            0: "same picture as 0.tar sample 0 (a)",
            1: "same media as 0.tar sample 1 (b)",
        }
        assert all(drop.reason is Reason.DUPLICATE for drop in before["1.tar"].values())
        packed = tmp_path / "later.tar"
        write(
            packed,
            [
                ("x.webp", photograph(3, 200, "WEBP")),
                ("y.txt", "貓在墊子上面睡覺 A TEXT ALONE".encode()),
                ("z.png", photograph(4, 90, "PNG")),
            ],
        )
        (tmp_path / "in/2.tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
        write(packed, [("p.png", photograph(4, 150, "PNG")), ("q.png", photograph(5, 400, "PNG"))])
        (tmp_path / "in/3.tar").write_bytes(packed.read_bytes()[: 512 + 1024 + len(photograph(4, 150, "PNG"))])
        dedup(tmp_path)
        assert {shard: drops_of(out, shard) for shard in before} == before
        assert {index: drop.detail for index, drop in drops_of(out, "2.tar.gz").items()} == {
            0: "same picture as 1.tar sample 2 (c)",
            1: "same text as 0.tar sample 3 (d)",
        }
        assert drops_of(out, "3.tar")[0].detail == "same picture as 2.tar.gz sample 2 (z)"
    dedup(tmp_path)  # nothing is left to do, without Ray
    with pytest.raises(RequestError, match="by = "):
        dedup(tmp_path, "media")
    with pytest.raises(RequestError, match="nothing was decided on 9.tar"):
        drops_of(out, "9.tar")
    with pytest.raises(RequestError, match="has changed since"):
        drops_of(out, "0.tar", "another fingerprint")


CONFIG = TextConfig()


def test_the_tokenizer_is_the_same_in_any_order_and_reads_no_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0", "1"):
        members = [
            (f"{at}.{form}", data)
            for at in range(30)
            for form, data in (("jpg", b"x" * 4_000), ("txt", f"picture {at} of a cat &amp; {name}".encode()))
        ]
        write(tmp_path / f"in/{name}.tar", members)
    write(tmp_path / "in/2.tar", [("a.json", '{"caption": "ein Kätzchen"}'.encode()), ("b.txt", b"\xff\xfe\xfa"), ("c.txt", b"  ")])
    urls = [(str(tmp_path / f"in/{name}.tar"), f"{name}.tar") for name in "012"]
    monkeypatch.setattr(tokenizer_job, "_sources", lambda shards: urls)
    given = (str(tmp_path / "in"),)
    assert tokenizer_job.run(TokenizerJobConfig(given, output=str(tmp_path / "a"), vocab_size=150)) == 0
    urls.reverse()
    assert tokenizer_job.run(TokenizerJobConfig(given, output=str(tmp_path / "b"), vocab_size=150)) == 0
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    seen, texts = sample_texts(urls[0][0], "2.tar", CONFIG, 1 << 20, 1 << 20, EVERYTHING)
    assert (seen, [text.text for text in texts]) == (1, ["ein Kätzchen"])
    with pytest.raises(RequestError, match="vocab_size = 150"):
        tokenizer_job.run(TokenizerJobConfig(given, output=str(tmp_path / "a"), vocab_size=151))
    with pytest.raises(RequestError, match="cannot hold"):
        tokenizer_job.run(TokenizerJobConfig(given, output=str(tmp_path / "c"), vocab_size=16))
    assert not (tmp_path / "c/recipe.json").exists(), "a refused request leaves its folder free"
    del urls[1:]
    assert tokenizer_job.run(TokenizerJobConfig(given, output=str(tmp_path / "cut"), cut=str(tmp_path / "a"))) == 0
    whole, cut = (Tokenizer.load(str(tmp_path / name)) for name in ("a", "cut"))
    assert cut.encode(["Kätzchen"], 64)[0].n_tokens == whole.encode(["Kätzchen"], 64)[0].n_tokens
    with pytest.raises(RequestError, match="leave out --kind and --lowercase"):
        TokenizerJobConfig(given, output=str(tmp_path / "c"), cut=str(tmp_path / "a"), lowercase=True)


def test_a_sample_of_texts_depends_on_the_texts_alone(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", [(f"{at:03d}.txt", f"text number {at}".encode()) for at in range(200)])
    texts = sample_texts(str(tmp_path / "0.tar"), "0.tar", CONFIG, 1 << 20, 1 << 20, EVERYTHING)[1]
    assert len(texts) == 200
    drawn = []
    for order in (texts, texts[::-1], sorted(texts, key=lambda one: one.text)):
        sample = TextSample(1_000)
        for text in order:
            sample.add(text)
        drawn.append(sample.texts())
    assert drawn[0] == drawn[1] == drawn[2]
    assert 400 <= sum(len(text.text) for text in drawn[0]) <= 1_000
    shard = sample_texts(str(tmp_path / "0.tar"), "0.tar", CONFIG, 1 << 20, 1_000, EVERYTHING)
    assert shard == (200, drawn[0])
