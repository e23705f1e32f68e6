"""Texts -> a tokenizer of one's own: WordPiece as BERT has it, or BPE on bytes.

The same texts give the same file. The library's WordPiece trainer numbers the pieces inside of words in the order of a hash
table that is seeded anew in every process, and breaks ties by those numbers: a first pass learns the characters, and the
second gets them numbered. BPE on bytes has no such gap, spells anything, and gives back every text exactly.
Letters keep their accents also in lower case, and emoji their joiners: what is invisible goes in `text.py`, not here.
"""

import os
from collections.abc import Callable, Iterable
from typing import Literal

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from pipeline.errors import RequestError
from pipeline.samples.tokens import Tokenizer

Kind = Literal["wordpiece", "bpe"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = {"begin": "[CLS]", "end": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
INSIDE = "##"
"""Marks a piece that does not begin a word."""
BYTES = 256
UNSPACED = r"\p{Han}|[\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]{1,6}"
"""What BPE takes for a word in scripts without spaces. A whole sentence would be one, and there are as many as sentences:
learning from 64 MiB of Chinese took 7.7 GB (2026-11)."""


def train(texts: Callable[[], Iterable[str]], kind: Kind, vocab_size: int, *, lowercase: bool = False) -> Tokenizer:
    """A tokenizer with at most `vocab_size` ids, fewer where the texts do not give more. `texts` is asked once or twice.

    RequestError where the vocabulary cannot hold the characters (WordPiece) or bytes (BPE), and where there is no text.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    backend = _wordpiece(texts, vocab_size, lowercase) if kind == "wordpiece" else _bpe(texts, vocab_size, lowercase)
    frame = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    return Tokenizer(backend.to_str(pretty=True).encode(), ROLES)


def _wordpiece_shell(model: models.Model, lowercase: bool) -> Backend:
    shell = Backend(model)
    shell.normalizer = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase)
    shell.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    shell.decoder = decoders.WordPiece(prefix=INSIDE, cleanup=True)
    return shell


def _wordpiece(texts: Callable[[], Iterable[str]], vocab_size: int, lowercase: bool) -> Backend:
    seeds = [*SPECIALS, *_characters(texts, lowercase)]
    if len(seeds) == len(SPECIALS):
        raise RequestError("the archives hold no text to learn from: a txt, or json with a caption")
    if len(seeds) > vocab_size:
        raise RequestError(
            f"--vocab-size {vocab_size:,} cannot hold the {len(seeds):,} characters of these texts; raise it, "
            "or use --kind bpe, which spells rare characters in bytes"
        )
    shell = _wordpiece_shell(models.WordPiece(unk_token="[UNK]"), lowercase)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=seeds, continuing_subword_prefix=INSIDE, show_progress=False, min_frequency=2
    )
    shell.train_from_iterator(texts(), trainer)
    # The trainer leaves all seeds as special tokens: the model is put into a shell that knows only the real ones.
    backend = _wordpiece_shell(models.WordPiece(shell.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=1_000), lowercase)
    backend.add_special_tokens(list(SPECIALS))
    return backend


def _characters(texts: Callable[[], Iterable[str]], lowercase: bool) -> list[str]:
    """Every character at the beginning of a word, and with its mark every character inside of one; sorted."""
    shell = _wordpiece_shell(models.WordPiece(unk_token="[UNK]"), lowercase)
    shell.train_from_iterator(texts(), trainers.WordPieceTrainer(vocab_size=1, continuing_subword_prefix=INSIDE, show_progress=False))
    return sorted(shell.get_vocab())


def _bpe(texts: Callable[[], Iterable[str]], vocab_size: int, lowercase: bool) -> Backend:
    if vocab_size < BYTES + len(SPECIALS):
        raise RequestError(
            f"--vocab-size {vocab_size:,} is below {BYTES + len(SPECIALS)}, the bytes and special tokens that BPE starts with"
        )
    backend = Backend(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    cut = pre_tokenizers.Split(Regex(UNSPACED), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend
