"""`nightcap remember`: a checkpoint gets a memory of pictures and their texts, which its captions weigh from then on.

prepared rows -> feature grids by the checkpoint's encoder -> keys -> CHECKPOINT/neighbours.safetensors

One process: what is remembered has to fit into memory anyway.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.display import console
from pipeline.errors import RequestError
from pipeline.model.neighbours import FILE, Weighing

BATCH = 64


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class RememberConfig:
    """Options of `nightcap remember`."""

    checkpoint: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """Folder of a checkpoint on this machine, such as OUT/model of nightcap train; its captions change."""
    prepared: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """Folder that nightcap prepare wrote with the checkpoint's tokenizer; what the checkpoint was trained on, or other pictures."""
    most: int = 50_000
    """Most pictures to remember, drawn evenly; each takes 2 KiB, and 16 KiB while this command runs."""
    weighing: Weighing = Weighing()
    """How much is given for likeness."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        if self.most < 2:
            raise RequestError(f"--most {self.most}: give 2 or more")


def run(config: RememberConfig) -> int:
    """Remembers. Returns the exit code."""
    import torch

    from pipeline.model.folder import load
    from pipeline.model.neighbours import grids_of, remember, save

    folder = Path(config.checkpoint).expanduser()
    if not folder.is_dir():
        raise RequestError(f"{config.checkpoint}: no such folder; give a checkpoint of nightcap train, such as OUT/model")
    loaded = load(folder)
    if "image" not in loaded.model.config.modalities:
        raise RequestError(f"{config.checkpoint} takes no pictures; only pictures are remembered")
    grids, texts = [], []
    for batch in _batches(config, loaded.model.config, loaded.tokenizer):
        assert batch.pictures is not None
        grids.append(grids_of(loaded.model, batch.pictures))
        texts += [ids[mask] for ids, mask in zip(batch.token_ids_bt, batch.token_mask_bt, strict=True)]
    if len(texts) < 2:
        raise RequestError(f"{config.prepared} holds {len(texts)} pictures with a text; two or more are needed")
    ids_nt = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=loaded.tokenizer.pad_id)
    save(remember(torch.cat(grids), ids_nt, config.weighing), folder)
    console.print(f"{len(texts):,} pictures remembered in {folder / FILE}; delete it to forget them", markup=False, soft_wrap=True)
    return 0


def _batches(config: RememberConfig, model: Any, tokenizer: Any) -> Iterator[Any]:
    """Batches in which every row has a picture and a text."""
    import numpy as np
    import pyarrow.compute as pc

    from pipeline.training.batches import collate
    from pipeline.training.corpus import draw_held_out, open_corpus, read_rows
    from pipeline.training.feed import decode_rows, feed_spec
    from pipeline.training.progress import of_rows, rows_of
    from pipeline.training.setup import tokenizer_of

    corpus, spec = open_corpus(config.prepared), feed_spec(model)
    if tokenizer_of(config.prepared).identity() != tokenizer.identity():
        raise RequestError(f"{config.prepared} was prepared with another tokenizer than {config.checkpoint} was trained with")
    chosen = draw_held_out(corpus, 1.0, config.most, seed=0)
    for number, file in enumerate(corpus.files):
        rows = rows_of(chosen.get(file.name, ()))
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            table = read_rows(file, of_rows(some))
            decoded = decode_rows(table, spec, seed=0, epoch=-1, files=np.full(len(some), number), rows=some)
            decoded = decoded.filter(pc.and_(decoded["image"].is_valid(), decoded["token_ids"].is_valid()))
            if decoded.num_rows:
                yield collate(decoded, px=spec.px, pad_id=tokenizer.pad_id).batch
