"""Texts -> token ids, by any tokenizer that the `tokenizers` library reads: from a file, a folder or a hub.

Every sequence is begin, words, end: [CLS] and [SEP], or what the tokenizer has in their place; GPT-2's one token serves
as both. They are put there here and not by the tokenizer's own template, which for many has no end, without which no model
learns to stop. A text that spells `[SEP]` gets ordinary tokens: nobody can write a special token into a caption.
Nothing is padded: batches do that, grouped by the bucket edges of the configuration.
"""

import bisect
import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tokenizers
from cyclopts import Parameter

from pipeline.errors import RequestError

PIECE_CHARACTERS = 1 << 20
"""Longer texts are encoded in pieces cut before white space: the library takes some hundred bytes of memory a token."""

_ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "begin": (("cls_token", "bos_token"), ("[CLS]", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>")),
    "end": (("sep_token", "eos_token"), ("[SEP]", "</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>", "<|pad|>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
}
"""By role: the keys of tokenizer_config.json, and the names to look for where it says nothing; first found, first taken."""
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
_HUB_FILES = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "config.json"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How texts become token ids. Part of the recipe, with the tokenizer's `identity`."""

    tokenizer: str = ""
    """A tokenizer.json, a folder that holds one, or a hub name; without it texts are not tokenised."""
    max_tokens: int = 64
    """Longest sequence, begin and end included; longer texts are cut, and the end stays. Memory of a trainer grows with it."""
    bucket_tokens: Annotated[tuple[int, ...], Parameter(negative=())] = ()
    """Lengths that batches are padded to, ascending, such as 16 32; max_tokens is the last by itself. Without it one fixed length."""

    def __post_init__(self) -> None:
        """Raises RequestError for lengths that leave no room for a word, and edges out of order."""
        if self.max_tokens < 3:
            raise RequestError(f"--max-tokens {self.max_tokens}: begin, end and one token take 3; give 3 or more")
        edges = self.bucket_tokens
        if any(low >= high for low, high in zip((2, *edges), edges, strict=False)) or (edges and edges[-1] > self.max_tokens):
            raise RequestError(
                f"--bucket-tokens {' '.join(map(str, edges))}: give ascending lengths from 3 to --max-tokens {self.max_tokens}"
            )


def bucket_edges(config: TokenizerConfig) -> tuple[int, ...]:
    """The lengths that sequences are padded to, ascending; the last is max_tokens."""
    edges = config.bucket_tokens
    return edges if edges and edges[-1] == config.max_tokens else (*edges, config.max_tokens)


def bucket_of(length: int, edges: Sequence[int]) -> int:
    """The smallest edge that a sequence fits under. ValueError where it fits under none."""
    at = bisect.bisect_left(edges, length)
    if at == len(edges):
        raise ValueError(f"{length} tokens do not fit under {tuple(edges)}")
    return edges[at]


class Encoded(NamedTuple):
    """One text as token ids."""

    token_ids: list[int]
    """Begin, words, end; at most as many as asked for."""
    n_tokens: int
    """Before truncation, begin and end included: `token_ids` was cut where it is shorter. 2 for a text without tokens."""


class Tokenizer:
    """A tokenizer and the roles of its special tokens. Pickled, it carries its file along: workers need no path."""

    def __init__(self, data: bytes, roles: dict[str, str]) -> None:
        """`data`: a tokenizer.json; `roles`: see `load`, which gives messages for people."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of a worker's own would fight over its one core
        self._data = data
        self._roles = roles
        backend = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        """Ids are below it, special tokens included."""
        ids = {role: found for role, token in roles.items() if (found := backend.token_to_id(token)) is not None}
        self.begin_id, self.end_id, self.pad_id = ids["begin"], ids["end"], ids["pad"]
        self.unk_id = ids.get("unk")
        self.mask_id = ids.get("mask")

    def __reduce__(self) -> tuple[Callable[..., "Tokenizer"], tuple[bytes, tuple[tuple[str, str], ...]]]:
        return _unpickled, (self._data, tuple(self._roles.items()))

    @classmethod
    def load(cls, name_or_path: str) -> "Tokenizer":
        """From a tokenizer.json, a folder, or a hub (only where no such path exists and the name could be one of a hub).

        Folders of transformers without a tokenizer.json are converted by that library. RequestError where there is none.
        """
        if not name_or_path:
            raise RequestError("--tokenizer needs a tokenizer.json, a folder that holds one, or a hub name such as owner/name")
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return _from_bytes(_read(path), path, _settings(path.parent))
        if path.is_dir():
            return _from_folder(path)
        if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or path.suffix == ".json":
            held = ", ".join(sorted(os.listdir(path.parent))[:6]) if path.parent.is_dir() else ""
            raise RequestError(f"--tokenizer {name_or_path}: no such file or folder" + (f"; {path.parent} holds {held}" if held else ""))
        return _from_folder(_from_hub(name_or_path))

    def encode(self, texts: Sequence[str], max_tokens: int) -> list[Encoded]:
        """One `Encoded` a text, in order. No text raises anything."""
        return [self._framed(ids, max_tokens) for ids in self._words(texts)]

    def _framed(self, words: list[int], max_tokens: int) -> Encoded:
        return Encoded([self.begin_id, *words[: max_tokens - 2], self.end_id], len(words) + 2)

    def _words(self, texts: Sequence[str]) -> list[list[int]]:
        if all(len(text) <= PIECE_CHARACTERS for text in texts):
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [[token for piece in _pieces(text) for token in self._backend.encode(piece, add_special_tokens=False).ids] for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text without special tokens. Tokenizers that split words at punctuation do not give back every space."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def vocabulary(self) -> dict[str, int]:
        """Id by token, special tokens included."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def identity(self) -> dict[str, Any]:
        """For recipes: the SHA-256 of the tokenizer.json that `save` writes, and the tokens in special roles."""
        return {"sha256": hashlib.sha256(self._data).hexdigest(), "roles": dict(sorted(self._roles.items()))}

    def files(self) -> dict[str, bytes]:
        """Name -> content of what `save` writes, for stores that are no local folder."""
        tokens = {key: self._roles[role] for role, (keys, _) in _ROLES.items() if role in self._roles for key in keys}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
        return {"tokenizer.json": self._data, "tokenizer_config.json": json.dumps(settings, indent=1, ensure_ascii=False).encode()}

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load` and transformers' AutoTokenizer read."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (target / name).write_bytes(data)


@functools.lru_cache(maxsize=2)
def _unpickled(data: bytes, roles: tuple[tuple[str, str], ...]) -> Tokenizer:
    """Held, since every task brings its tokenizer along, and parsing one takes as long as preparing 20 pictures."""
    return Tokenizer(data, dict(roles))


def _pieces(text: str) -> list[str]:
    """The text in pieces of about PIECE_CHARACTERS, cut before a space where there is one in reach."""
    cuts = [0]
    while len(text) - cuts[-1] > PIECE_CHARACTERS:
        end = cuts[-1] + PIECE_CHARACTERS
        space = text.rfind(" ", end - 10_000, end)
        cuts.append(space if space > cuts[-1] else end)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise RequestError(f"--tokenizer {path}: {exc.strerror}") from exc


def _settings(folder: Path) -> dict[str, Any]:
    """What stands beside a tokenizer.json about its special tokens."""
    found: dict[str, Any] = {}
    for name in reversed(_BESIDE):
        with contextlib.suppress(OSError, ValueError):
            parsed = json.loads((folder / name).read_text(encoding="utf-8"))
            found |= parsed if isinstance(parsed, dict) else {}
    return found


def _from_bytes(data: bytes, path: Path, settings: dict[str, Any]) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as exc:  # the library raises bare Exception
        raise RequestError(f"--tokenizer {path} is no tokenizer.json: {' '.join(str(exc).split())[:160]}") from exc
    roles = _roles(settings, backend.token_to_id)
    if "begin" not in roles:
        raise RequestError(
            f"--tokenizer {path}: no special token begins or ends a text; put a tokenizer_config.json with bos_token and eos_token beside it"
        )
    return Tokenizer(data, roles)


def _roles(settings: dict[str, Any], id_of: Callable[[str], int | None]) -> dict[str, str]:
    """The token of each role that the vocabulary has. Begin and end stand in for each other, and the end for padding."""
    roles: dict[str, str] = {}
    for role, (keys, names) in _ROLES.items():
        given = [value["content"] if isinstance(value, dict) else value for value in map(settings.get, keys) if value]
        token = next((token for token in [*given, *names] if isinstance(token, str) and id_of(token) is not None), None)
        if token is not None:
            roles[role] = token
    for role, stand_in in (("begin", "end"), ("end", "begin"), ("pad", "end")):
        if role not in roles and stand_in in roles:
            roles[role] = roles[stand_in]
    return roles


def _from_folder(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        return _from_bytes(_read(file), file, _settings(folder))
    from transformers import AutoTokenizer

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        data = found.backend_tokenizer.to_str().encode()
    except Exception as exc:
        held = ", ".join(sorted(os.listdir(folder))[:6]) or "nothing"
        raise RequestError(
            f"--tokenizer {folder}: no tokenizer.json in that folder, and no vocabulary to make one from; it holds {held}"
        ) from exc
    return _from_bytes(data, folder, {**found.special_tokens_map})


def _from_hub(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES, etag_timeout=5))
    except Exception as exc:
        first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise RequestError(f"--tokenizer {name}: no such file or folder here, and no hub gives it ({first[:160]})") from exc
