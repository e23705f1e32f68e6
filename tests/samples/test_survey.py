"""What `check` counts is what stands in the archives.

- The short way through a plain tar gives the account of the long one, or gives up: over any writer, names and damage.
- Adding up accounts is associative and commutative, and what they keep is bounded.
- Sizes of pictures and lengths of recordings are those that Pillow and the writer say.
- Equal contents and keys are counted as a plain count over all samples would, also when they went over the disk.
- A shard's account: fields, texts, order, partners that are apart, damage.
"""

import gzip
import io
import itertools
import tarfile
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.samples.account import MAX_DAMAGE, MAX_FIELDS, Hit, Survey, merged
from pipeline.samples.group import EndOfShard, read_samples
from pipeline.samples.measure import HEAD_BYTES, Measure, full_measure, quick_measure
from pipeline.samples.prints import Gathered, text_prints
from pipeline.samples.skim import CHUNK_BYTES, skim
from pipeline.samples.spans import Damage, DamageKind
from pipeline.samples.spread import Spread
from pipeline.samples.survey import Found, Look, Observer, survey
from pipeline.storage import BytesReader

quick = settings(max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
BARE = Look(hashes=False, media=True)
Members = Sequence[tuple[str, bytes]]


def pack(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def short(data: bytes) -> Found | None:
    reader = BytesReader(data)
    observer = Observer("x", reader, BARE, packed=False)
    return observer.found() if skim(reader, observer) else None


def long(data: bytes) -> Found:
    reader = BytesReader(data)
    observer = Observer("x", reader, BARE, packed=False)
    for item in read_samples(reader, max_sample_bytes=BARE.max_sample_bytes, load=False):
        if isinstance(item, EndOfShard):
            observer.end(item)
        else:
            observer.take(item)
    return observer.found()


def same(one: Found, other: Found) -> None:
    assert one.survey.to_dict() == other.survey.to_dict()
    assert one.prints.keys.tolist() == other.prints.keys.tolist()


payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda size: b"\x5a" * size, st.sampled_from([0, 1, 511, 512, 513, 5000])),
    st.builds(lambda size: bytes(size), st.integers(0, 2000)),
)


@st.composite
def archives(draw: st.DrawFn) -> Members:
    members = []
    for number in range(draw(st.integers(0, 8))):
        key = draw(st.sampled_from(["k", "a/b/k", "é", "l" * 60 + "/k", "n" * 85, "K.", "__m__/x", "a b"])) + str(
            draw(st.integers(0, 9)) * 10 + number
        )
        for field in draw(st.sampled_from([("jpg",), ("jpg", "txt"), ("JPG", "json"), ("left.png", "cls", "txt"), ("txt", "txt")])):
            members.append((f"{key}.{field}", draw(payloads)))
    return members


@quick
@given(archives(), st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_the_short_way_gives_the_account_of_the_long_one_or_gives_up(members: Members, form: int) -> None:
    data = pack(members, form)
    found = short(data)
    if found is None:
        assert unusual(members, form)
    else:
        same(found, long(data))


def unusual(members: Members, form: int) -> bool:
    """An archive that the short way may leave to the long one: none or few members, names in headers of their own, a key or field again."""
    names = [name for name, _ in members]
    keys = [
        key for key, _ in itertools.groupby(name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0] for name in names)
    ]
    long_names = any(len(name.encode()) > 100 or not name.isascii() for name in names)
    return len(names) < 2 or long_names or len(set(names)) < len(names) or len(set(keys)) < len(keys) or any("__" in name for name in names)


def test_the_short_way_is_taken_on_plain_archives_whatever_the_payloads_and_names() -> None:
    rng = np.random.default_rng(0)
    members = [
        (f"{folder}{at:05d}.{field}", rng.bytes(int(rng.integers(0, 3000))))
        for folder in ("", "a/", "é/")
        for at in range(900)
        for field in ("cls", "jpg", "txt")
    ]
    members.insert(300, ("00099z.wav", rng.bytes(3 * CHUNK_BYTES + 77)))
    data = pack(sorted(members))
    found = short(data)
    assert found is not None and found.survey.samples == 2701
    same(found, long(data))


@quick
@given(
    st.integers(0, 5),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "cut", "zero", "remove"]),
    st.sampled_from([1, 2, 100, 512, 1024, 1536]),
)
def test_damage_that_the_long_way_finds_makes_the_short_one_give_up(seed: int, where: float, kind: str, length: int) -> None:
    rng = np.random.default_rng(seed)
    data = pack([(f"{at:03d}.{field}", rng.bytes(int(rng.integers(0, 1500)))) for at in range(8) for field in ("jpg", "txt")])
    at = int(where * len(data))
    middle = bytearray(data[at : at + length])
    if kind == "flip":
        middle[0] ^= 1 + seed
    broken = {
        "flip": data[:at] + middle + data[at + length :],
        "cut": data[:at],
        "zero": data[:at] + bytes(len(middle)) + data[at + length :],
    }
    damaged = broken.get(kind, data[:at] + data[at + length :])
    found, truth = short(damaged), long(damaged)
    if truth.survey.n_damage:
        assert found is None
    elif found is not None:
        same(found, truth)


numbers = st.lists(st.integers(0, 1 << 40), max_size=30)


def spread(values: Sequence[int]) -> Spread:
    result = Spread()
    result.add(values)
    return result


def one_survey(at: int, values: Sequence[int], names: Sequence[str]) -> Survey:
    hits = [Hit(f"{at}.tar", Damage(DamageKind.ZEROS, value, value + 1, None, "")) for value in values]
    fields = {name: spread(values) for name in names if values}
    return Survey(
        archives=1,
        samples=at,
        fields=fields,
        text_chars=spread(values),
        problems=Counter(names),
        damage=hits,
        n_damage=len(hits),
        damaged=[f"{at}.tar"],
    )


surveys = st.builds(one_survey, st.integers(0, 500), numbers, st.lists(st.sampled_from(["jpg", "txt", "a.b"]), max_size=3))


@quick
@given(st.lists(surveys, min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_accounts_add_up_to_the_same_in_any_order_and_grouping(parts: list[Survey], draw: object) -> None:
    whole = merged(parts).to_dict()
    shuffled = list(parts)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    middle = len(parts) // 2
    assert merged(shuffled).to_dict() == whole
    assert merged([merged(parts[:middle]), merged(parts[middle:])]).to_dict() == whole


def test_an_account_stays_small_and_exact_about_what_it_keeps() -> None:
    whole = Survey()
    for at in range(40):
        names = ["jpg", *(f"{at}-{n:04d}.jpg" for n in range(50))]
        whole.merge(one_survey(at, range(100), names))
    assert len(whole.fields) == MAX_FIELDS and whole.fields["jpg"].count == 4_000
    assert whole.other_fields + sum(found.count for found in whole.fields.values()) == 40 * 51 * 100
    assert len(whole.damage) == MAX_DAMAGE and whole.n_damage == 4_000
    assert [hit.url for hit in whole.damage] == sorted(hit.url for hit in whole.damage)


@quick
@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_off_by_three_percent_at_most(values: list[int], share: float) -> None:
    found = spread(values)
    ordered = sorted(values)
    truth = ordered[max(0, int(np.ceil(share * len(values))) - 1)]
    assert abs(found.quantile(share) - truth) <= 0.035 * truth + 1
    assert (found.count, found.total, found.low, found.high) == (len(values), sum(values), ordered[0], ordered[-1])


def picture(form: str, width: int, height: int, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(data, form, **options)  # type: ignore[arg-type]
    return data.getvalue()


def test_sizes_of_pictures_are_read_from_their_headers() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 4000  # pushes the frame header out of the first bytes
    for form, field in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")):
        data = picture(form, 37, 211)
        assert full_measure(data, field) == Measure(37, 211)
        if form in ("JPEG", "PNG"):
            assert quick_measure(data[:HEAD_BYTES], field, len(data)) == Measure(37, 211)
    for options in ({"progressive": True}, {"exif": exif}, {"icc_profile": bytes(3000)}):
        data = picture("JPEG", 640, 9, **options)
        assert quick_measure(data, "jpg", len(data)) == Measure(640, 9)
    assert quick_measure(picture("JPEG", 640, 9, exif=exif)[:HEAD_BYTES], "jpg", 9_000) is None
    assert full_measure(b"no picture", "jpg") is None and quick_measure(b"\xff\xd8\xff", "jpg", 3) is None


def recording(seconds: float, rate: int = 8000) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * 4))
    return data.getvalue()


def test_lengths_of_recordings_are_read_from_their_containers() -> None:
    import av

    data = recording(2.5)
    assert quick_measure(data[:HEAD_BYTES], "wav", len(data)) == Measure(duration_s=2.5)
    assert quick_measure(data[:HEAD_BYTES], "wav", len(data) // 2) == Measure(duration_s=pytest.approx(1.25, abs=0.01))
    for form in ("flac", "mp3", "ogg"):
        packed = io.BytesIO()
        with av.open(packed, "w", format=form) as container:
            stream = container.add_stream({"ogg": "libopus", "mp3": "mp3"}.get(form, form), rate=48_000, layout="mono")
            planes = {"flac": "s16", "mp3": "s16p", "ogg": "s16"}
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format=planes[form], layout="mono")
            frame.sample_rate = 48_000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        found = full_measure(packed.getvalue(), form)
        assert found is not None and found.duration_s == pytest.approx(1.0, abs=0.1), form
        if form == "flac" and (head := quick_measure(packed.getvalue(), form, 0)) is not None:
            assert head.duration_s == pytest.approx(1.0)


@quick
@given(st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=6), st.sampled_from([1, 1 << 20]))
def test_repeats_are_counted_exactly_also_over_the_disk(shards: list[list[int]], memory_bytes: int) -> None:
    with Gathered(memory_bytes) as contents, Gathered(memory_bytes) as keys:
        for number, shard in reversed(list(enumerate(shards))):
            pairs = np.array([[value * 0x9E3779B97F4A7C15 % (1 << 64), value] for value in shard], np.uint64).reshape(-1, 2)
            contents.add(number, pairs, np.arange(len(shard), dtype=np.uint64) * 2)
            keys.add(number, text_prints([f"key{value}" for value in shard]))
        found, across = contents.repeats(), keys.repeats(across=True)
    total = Counter(value for shard in shards for value in shard)
    assert found.repeats == sum(count - 1 for count in total.values())
    assert found.within == sum(count - 1 for shard in shards for count in Counter(shard).values())
    archives_of = Counter(value for shard in shards for value in set(shard))
    assert across.repeats == sum(count - 1 for count in archives_of.values())
    for group in found.examples:
        assert len({shards[place.shard][place.position // 2] for place in group}) == 1 and len(group) > 1
    assert bool(found.examples) == bool(found.repeats)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    picture_bytes = picture("PNG", 20, 10)
    texts = ["", "short", "ein längerer Text"]
    members = [(f"{at}.{field}", data) for at in range(3) for field, data in (("png", picture_bytes), ("txt", texts[at].encode()))]
    path = tmp_path / "odd.tar"
    path.write_bytes(pack([*members, ("2.json", b"{"), ("0.wav", recording(1)), ("README", b"none")]))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_the_account_of_a_shard(odd: Path, packed: bool) -> None:
    path = odd
    if packed:
        path = odd.with_suffix(".tar.gz")
        path.write_bytes(gzip.compress(odd.read_bytes()))
    found = survey(str(path), Look())
    account = found.survey
    assert (account.archives, account.samples, account.hashed, account.repeated_keys, account.out_of_order) == (1, 4, 4, 1, 1)
    assert {name: spread.count for name, spread in account.fields.items()} == {"png": 3, "txt": 3, "json": 1, "wav": 1}
    assert (account.text_chars.low, account.text_chars.high, account.remarks["empty_text"]) == (0, 17, 1)
    assert (account.width_px.low, account.height_px.high, account.duration_ms.total) == (20, 10, 1000)
    assert account.ignored == {"no_extension": 1} and account.n_damage == 0 and found.faulty
    assert len(found.prints.content) == 4 and len(found.prints.media) == 4 and len(found.prints.keys) == 4
    assert account.to_dict() == survey(str(path), Look()).survey.to_dict()


def test_damage_is_listed_with_its_bytes(tmp_path: Path) -> None:
    data = bytearray(pack([(f"{at}.txt", b"x" * 600) for at in range(4)]))
    data[1536:2048] = bytes(range(256)) * 2  # the header of 1.txt
    (tmp_path / "a.tar").write_bytes(data)
    for look in (Look(), Look(hashes=False)):
        account = survey(str(tmp_path / "a.tar"), look).survey
        assert account.n_damage == 1 and account.damaged == [str(tmp_path / "a.tar")]
        assert (account.damage[0].damage.start, account.damage[0].damage.end) == (1536, 3072)


def test_a_sample_above_the_bound_is_a_problem_and_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pack([("0.bin", bytes(5000)), ("1.bin", b"x")]))
    for hashes in (True, False):
        account = survey(str(tmp_path / "a.tar"), Look(hashes=hashes, max_sample_bytes=1000)).survey
        assert account.problems == {"too_large": 1} and account.samples == 2 and account.hashed == int(hashes)
