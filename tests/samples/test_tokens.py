"""Tokenizers:

- every sequence is begin, words, end; cut sequences keep the end, and say how long they were;
- texts come back in Chinese, Arabic, Hindi, Thai, Cyrillic, with accents and emoji: exactly from BPE, up to spaces from WordPiece;
- a text that spells a special token gets ordinary ones;
- the same texts give the same tokenizer in another process, whatever the order of archives; what is saved loads here and in transformers as
  the same tokenizer; nothing is downloaded for a path;
- folders without tokenizer.json, tokenizers without begin and end, files that are none, hubs out of reach: one clear line or a stand-in.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.samples import tokens
from pipeline.samples.text import TextConfig, normalise_text
from pipeline.samples.tokens import Tokenizer, TokenizerConfig, bucket_edges, bucket_of
from pipeline.samples.vocabulary import SPECIALS, Kind, train

TEXTS = [
    "a photo of a cat on a mat",
    "Ein schöner Tag in Zürich, naïve Café",
    "一隻貓在墊子上面睡覺",
    "マットの上の猫がいます",
    "قطة صغيرة على السجادة",
    "नमस्ते दुनिया, बिल्ली",
    "แมวตัวหนึ่งนั่งอยู่บนเสื่อ",
    "Кошка сидит на коврике",
    "family 👩‍👩‍👧 in 🇩🇪 with ❤️ and 👍🏽",
    "[SEP] and [MASK] are spelt here: [CLS]",
]


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def learnt(request: pytest.FixtureRequest) -> tuple[Kind, Tokenizer]:
    return request.param, train(lambda: TEXTS * 3, request.param, 900)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(learnt: tuple[Kind, Tokenizer], text: str) -> None:
    kind, tokenizer = learnt
    (encoded,) = tokenizer.encode([text], 1_000)
    again = tokenizer.decode(encoded.token_ids)
    assert tokenizer.unk_id not in encoded.token_ids
    assert encoded.n_tokens == len(encoded.token_ids)
    assert again == text if kind == "bpe" else "".join(again.split()) == "".join(text.split())


def test_begin_and_end_are_where_they_belong_and_nowhere_else(learnt: tuple[Kind, Tokenizer]) -> None:
    _, tokenizer = learnt
    whole, cut = tokenizer.encode([TEXTS[9]], 1_000)[0], tokenizer.encode([TEXTS[9]], 7)[0]
    for encoded in (whole, cut):
        assert (encoded.token_ids[0], encoded.token_ids[-1]) == (tokenizer.begin_id, tokenizer.end_id)
        assert not {tokenizer.begin_id, tokenizer.end_id, tokenizer.mask_id} & set(encoded.token_ids[1:-1])
    assert len(cut.token_ids) == 7 and cut.token_ids[:6] == whole.token_ids[:6] and cut.n_tokens == whole.n_tokens > 7
    empty = tokenizer.encode([""], 7)[0]
    assert (empty.token_ids, empty.n_tokens) == ([tokenizer.begin_id, tokenizer.end_id], 2)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_bpe_gives_back_every_normalised_text(text: str) -> None:
    text = normalise_text(text, TextConfig())
    tokenizer = BPE[0] if BPE else BPE.append(train(lambda: TEXTS, "bpe", 400)) or BPE[0]
    assert tokenizer.decode(tokenizer.encode([text], 10_000)[0].token_ids) == text


BPE: list[Tokenizer] = []


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_same_texts_give_the_same_tokenizer_in_another_process(kind: Kind) -> None:
    code = f"from pipeline.samples.vocabulary import train; print(train(lambda: {TEXTS * 3!r}, {kind!r}, 300).identity()['sha256'])"
    shas = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() for _ in range(2)}
    assert shas == {train(lambda: TEXTS * 3, kind, 300).identity()["sha256"]}


def test_special_tokens_are_the_first_ids_and_accents_survive_lower_case(learnt: tuple[Kind, Tokenizer]) -> None:
    _, tokenizer = learnt
    table = json.loads(tokenizer.files()["tokenizer.json"])
    assert [(token["id"], token["content"], token["special"]) for token in table["added_tokens"]] == [
        (at, name, True) for at, name in enumerate(SPECIALS)
    ]
    low = train(lambda: TEXTS * 3, "wordpiece", 900, lowercase=True)
    assert low.decode(low.encode(["Zürich CAFÉ"], 50)[0].token_ids) == "zürich café"


def test_what_is_saved_loads_here_pickled_and_in_transformers(learnt: tuple[Kind, Tokenizer], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, tokenizer = learnt
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    encoded = tokenizer.encode(TEXTS[:9], 1_000)
    for again in (Tokenizer.load(str(tmp_path)), Tokenizer.load(str(tmp_path / "tokenizer.json")), pickle.loads(pickle.dumps(tokenizer))):
        assert again.identity() == tokenizer.identity()
        assert again.encode(TEXTS[:9], 1_000) == encoded
    assert [theirs(text).input_ids for text in TEXTS[:9]] == [one.token_ids for one in encoded]
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id) == (tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id)
    assert (theirs.mask_token_id, len(theirs)) == (tokenizer.mask_id, tokenizer.vocab_size)


def test_a_folder_with_a_vocabulary_alone_is_converted(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, "a", "cat", "##s"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    tokenizer = Tokenizer.load(str(tmp_path))
    assert tokenizer.encode(["A cats"], 9)[0].token_ids == [2, 5, 6, 7, 3]


def test_one_token_serves_as_begin_end_and_padding_where_there_is_no_other(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": []}
    added = [
        {"id": 0, "content": "<|endoftext|>", "special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": added, "model": model}))
    tokenizer = Tokenizer.load(str(tmp_path))
    assert tokenizer.encode(["aaa"], 4)[0] == ([0, 1, 1, 0], 5) and tokenizer.pad_id == 0
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}))
    with pytest.raises(RequestError, match="no special token begins or ends a text"):
        Tokenizer.load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "Magic"}}', b"not json"])
def test_a_file_that_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(RequestError, match=r"is no tokenizer\.json") as caught:
            Tokenizer.load(str(path))
        assert "\n" not in str(caught.value)


def test_paths_that_are_not_there_are_refused_without_asking_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_from_hub", lambda name: pytest.fail(f"asked a hub for {name}"))
    (tmp_path / "other.txt").write_text("x")
    for path in (str(tmp_path / "tokenizer.json"), str(tmp_path / "nowhere"), "./nowhere", "nowhere.json", "a/b/c"):
        with pytest.raises(RequestError, match="no such file or folder"):
            Tokenizer.load(path)
    with pytest.raises(RequestError, match="holds other.txt"):
        Tokenizer.load(str(tmp_path))
    with pytest.raises(RequestError, match="hub name"):
        Tokenizer.load("")


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(RequestError, match=r"no hub gives it \(Name or service not known\)"):
        Tokenizer.load("owner/name")


def test_long_texts_are_encoded_in_pieces_as_if_whole(learnt: tuple[Kind, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer = learnt
    text = " ".join(TEXTS[:2] * 20)
    whole = tokenizer.encode([text, "a"], 10_000)
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 100)
    assert tokenizer.encode([text, "a"], 10_000) == whole


def test_lengths_that_cannot_be_meant_are_refused_and_buckets_end_at_the_longest() -> None:
    for wrong in ({"max_tokens": 2}, {"bucket_tokens": (32, 16)}, {"bucket_tokens": (16, 128)}, {"bucket_tokens": (2,)}):
        with pytest.raises(RequestError, match="give"):
            TokenizerConfig(**wrong)  # type: ignore[arg-type]
    assert bucket_edges(TokenizerConfig()) == (64,)
    assert (
        bucket_edges(TokenizerConfig(bucket_tokens=(16, 32))) == (16, 32, 64) == bucket_edges(TokenizerConfig(bucket_tokens=(16, 32, 64)))
    )
    assert [bucket_of(length, (16, 32)) for length in (2, 16, 17, 32)] == [16, 16, 32, 32]
    with pytest.raises(ValueError, match="fit"):
        bucket_of(33, (16, 32))


def test_vocabularies_that_cannot_be_are_refused() -> None:
    with pytest.raises(RequestError, match="cannot hold the"):
        train(lambda: TEXTS, "wordpiece", 30)
    with pytest.raises(RequestError, match="bytes and special tokens"):
        train(lambda: TEXTS, "bpe", 100)
