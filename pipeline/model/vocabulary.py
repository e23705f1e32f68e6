"""A BERT's tokenizer cut to the words of a corpus: the same ids in another numbering, and none that is never used.

The vocabulary's matrix is the largest of a small text model: 30,522 rows for names that use 1,700 cost 17 to 29 % of the training speed
(2 cores, 2026-11). Texts of the corpus are cut into the same tokens as before, because WordPiece takes the longest token that fits and
all of those are kept; other texts still are spelled by letters. `text.start_from` then finds each row by its token.
"""

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import RequestError
from pipeline.samples.tokens import Tokenizer

_LETTERS = string.ascii_letters + string.digits + string.punctuation
_BATCH = 1024


class Cut(NamedTuple):
    """What a cut kept."""

    kept: int
    """Tokens of the new vocabulary."""
    of: int
    """Tokens of the old one."""


def cut_vocabulary(tokenizer: str | Path, texts: Iterable[str], output: str | Path) -> Cut:
    """Writes a tokenizer folder with the tokens that `texts` use, special tokens and single letters.

    `tokenizer` is a folder or hub name with a WordPiece tokenizer. RequestError where it has another kind, or there are no texts.
    """
    whole = Tokenizer.load(str(tokenizer))
    files = whole.files()
    described: dict[str, Any] = json.loads(files["tokenizer.json"])
    if described["model"].get("type") != "WordPiece":
        raise RequestError(f"{tokenizer}: its tokenizer is {described['model'].get('type')}; only WordPiece vocabularies are cut")
    used = _used(whole, texts)
    if not used:
        raise RequestError("no text to cut the vocabulary to")
    vocabulary: dict[str, int] = described["model"]["vocab"]
    added = {token["content"] for token in described["added_tokens"]}
    prefix = described["model"].get("continuing_subword_prefix", "##")
    letters = {*_LETTERS, *(prefix + letter for letter in _LETTERS)}
    kept = [token for token, at in sorted(vocabulary.items(), key=lambda pair: pair[1]) if at in used or token in added or token in letters]
    numbers = {token: at for at, token in enumerate(kept)}
    described["model"]["vocab"] = numbers
    for token in described["added_tokens"]:
        token["id"] = numbers[token["content"]]
    _renumber(described.get("post_processor"), numbers)
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    (target / "tokenizer_config.json").write_bytes(files["tokenizer_config.json"])
    return Cut(Tokenizer.load(str(target)).vocab_size, whole.vocab_size)


def _used(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    used: set[int] = set()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            used.update(at for encoded in tokenizer.encode(batch, 1 << 30) for at in encoded.token_ids)
            batch = []
    used.update(at for encoded in tokenizer.encode(batch, 1 << 30) for at in encoded.token_ids)
    return used


def _renumber(post_processor: Any, numbers: dict[str, int]) -> None:
    """Ids in the template that adds special tokens, as `transformers` uses it."""
    for token in (post_processor or {}).get("special_tokens", {}).values() if isinstance(post_processor, dict) else ():
        if isinstance(token, dict) and all(name in numbers for name in token.get("tokens", ())):
            token["ids"] = [numbers[name] for name in token["tokens"]]
    for side in ("sep", "cls"):
        if isinstance(post_processor, dict) and isinstance(post_processor.get(side), list):
            post_processor[side] = [post_processor[side][0], numbers[post_processor[side][0]]]
