"""`nightcap tokenizer`: the texts of archives in, a tokenizer of one's own out.

texts of each archive, media jumped over -> a sample that fits into memory -> vocabulary -> a folder
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.cluster import session
from jobs.display import console
from jobs.each import on_ray
from jobs.options import byte_count
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.commit.parts import PREPARED
from pipeline.commit.plan import expand
from pipeline.errors import RequestError, StoppedError
from pipeline.model.vocabulary import cut_vocabulary
from pipeline.samples.text import TextConfig
from pipeline.samples.texts import TextSample, sample_texts
from pipeline.samples.tokens import Tokenizer
from pipeline.samples.vocabulary import Kind, train

RAY_FROM = 64
"""Archives from which starting Ray pays off: texts alone are read quickly."""
UNUSED = "no table of this job"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerJobConfig:
    """Options of `nightcap tokenizer`."""

    shards: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Archives, as for the other jobs, or one output folder of nightcap prepare."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for the tokenizer, for --tokenizer and for transformers' AutoTokenizer."""
    kind: Kind = "wordpiece"
    """wordpiece: words and pieces of words, as BERT; bpe: on bytes, which spells any script and gives back every text exactly."""
    vocab_size: int = 8_000
    """Token ids at most, special tokens included; more shorten sequences, and a model's memory and time grow with them."""
    lowercase: bool = False
    """Fold upper to lower case; accents stay."""
    cut: str = ""
    """A BERT (folder or hub name) whose WordPiece tokenizer is cut to what these texts use, instead of learning one: `nightcap train
    --text-model` then keeps its word vectors, and is faster. The other options of learning do not apply."""
    text: Annotated[TextConfig, Parameter(name="text")] = TextConfig()
    """How texts are normalised; as `nightcap prepare` is told."""
    max_text_bytes: str = "32MiB"
    """Texts to learn from; of larger corpora a sample, always the same. Learning takes 0.2 GB in languages with spaces, up to 3 GB without."""
    max_sample_bytes: str = "512MiB"
    """A sample above this size is left out."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine where there are many archives."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        if not self.shards:
            raise RequestError("no shards given; name a folder, a glob or a list file: nightcap tokenizer 'data/*.tar' --output tokenizer")
        if self.vocab_size < 16:
            raise RequestError(f"--vocab-size {self.vocab_size}: give 16 or more; 8000 to 32000 are usual")
        if self.cut and (self.kind != "wordpiece" or self.lowercase):
            raise RequestError("--cut keeps the tokenizer's own kind and case; leave out --kind and --lowercase")
        byte_count("--max-text-bytes", self.max_text_bytes)
        byte_count("--max-sample-bytes", self.max_sample_bytes)


def run(config: TokenizerJobConfig) -> int:
    """Reads, learns, saves. Returns the exit code."""
    sources = _sources(config.shards)
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    store = storage.Folder(config.output)
    learnt = ("cut", "text", "max_text_bytes") if config.cut else ("kind", "vocab_size", "lowercase", "text", "max_text_bytes")
    recipe = {"recipe_version": 1, **{name: value for name, value in asdict(config).items() if name in learnt}}
    if store.exists("tokenizer.json"):
        recipes.guard(store, recipe, UNUSED)
    sample = _read(sources, config)
    texts = [text.text for text in sample.texts()]
    if not texts:
        raise RequestError("these archives hold no text to learn from; texts are read from .txt, and from .json under caption or text")
    console.print(f"{len(sources):,} archives · {sample.seen:,} texts · {len(texts):,} to learn from")
    tokenizer = (
        _cut(config.cut, texts) if config.cut else train(lambda: iter(texts), config.kind, config.vocab_size, lowercase=config.lowercase)
    )
    recipes.guard(store, recipe, UNUSED)
    for name, data in tokenizer.files().items():
        store.put(name, data)
    facts = {"texts": sample.seen, "learnt_from": len(texts), "vocab_size": tokenizer.vocab_size, **tokenizer.identity()}
    store.put("learnt.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())
    lengths = [encoded.n_tokens for encoded in tokenizer.encode(texts[:10_000], max_tokens=1 << 30)]
    lengths.sort()
    console.print(
        f"tokenizer  {config.output}   {tokenizer.vocab_size:,} tokens · of {len(lengths):,} texts half have at most {lengths[len(lengths) // 2]}, "
        f"99 of 100 at most {lengths[len(lengths) * 99 // 100]} (--max-tokens of nightcap prepare)"
    )
    return 0


def _cut(bert: str, texts: list[str]) -> Tokenizer:
    with tempfile.TemporaryDirectory(prefix="nightcap-tokenizer-") as folder:
        try:
            cut = cut_vocabulary(bert, texts, folder)
        except RequestError as exc:
            raise RequestError(str(exc).replace("--tokenizer ", "--cut ")) from exc
        console.print(f"{cut.kept:,} of the {cut.of:,} tokens of {bert} are used here, or are single letters", markup=False)
        return Tokenizer.load(folder)


def _sources(shards: tuple[str, ...]) -> list[tuple[str, str]]:
    """(URL, name below the root) of archives, or of the tables of a prepared folder."""
    if len(shards) == 1 and storage.is_folder(f"{shards[0].rstrip('/')}/{PREPARED}"):
        folder = f"{shards[0].rstrip('/')}/{PREPARED}"
        tables = [blob.path for blob in storage.walk(folder) if blob.path.endswith(".parquet") and storage.TEMPORARY not in blob.path]
        if not tables:
            raise RequestError(f"{folder} holds no table; nightcap prepare has not finished one yet")
        return [(path, path[len(tables[0]) - len(tables[0].split(f"/{PREPARED}/", 1)[1]) :]) for path in tables]
    root, blobs = expand(shards)
    return [(blob.path, blob.path[len(root.rstrip("/")) + 1 :]) for blob in blobs]


def _read(sources: list[tuple[str, str]], config: TokenizerJobConfig) -> TextSample:
    limits = byte_count("--max-sample-bytes", config.max_sample_bytes), byte_count("--max-text-bytes", config.max_text_bytes)
    sample = TextSample(limits[1])
    distributed = bool(config.address) or len(sources) >= RAY_FROM

    def arguments() -> Iterator[tuple[Any, ...]]:
        for url, shard in sources:
            yield url, shard, config.text, *limits, sample.bound  # as low as it is by now: what is above would be left out here

    with session(config.address, verbose=config.verbose) if distributed else nullcontext():
        try:
            for seen, texts in on_ray(sample_texts, arguments()) if distributed else (sample_texts(*given) for given in arguments()):
                for text in texts:
                    sample.add(text)
                sample.seen += seen - len(texts)
        except OSError as exc:
            raise StoppedError(f"an archive cannot be read: {exc}; run the same command again") from exc
    return sample
