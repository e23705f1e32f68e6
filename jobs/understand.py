"""`nightcap evaluate CHECKPOINT --prepared DIR`: is the text read off the medium, and do media and texts find each other.

prepared rows -> batches -> memories, kept -> log P of each text with its medium, another one's, and none
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from jobs.display import console
from pipeline import storage
from pipeline.errors import RequestError
from pipeline.evaluation.medium import derangement, likelihood, pair_accuracy
from pipeline.evaluation.understanding import ranks, retrieval
from pipeline.model.batch import Batch
from pipeline.model.folder import Loaded, load
from pipeline.model.memory import Memory
from pipeline.training.batches import collate, to_device
from pipeline.training.corpus import open_corpus, read_rows
from pipeline.training.feed import FeedSpec, decode_rows, feed_spec

BATCH = 32
MEDIA = ("right", "shuffled", "absent")


class _Scored(NamedTuple):
    """One batch on the CPU: its texts, and what the model made of its media."""

    batch: Batch
    memory: Memory
    media: np.ndarray | None
    """(samples, width) embeddings of media and of texts; None for a model without a common space."""
    texts: np.ndarray | None


def run(checkpoint: str, prepared: str, output: str, *, limit: int, seed: int) -> int:
    """Measures, writes understanding.json, prints. Returns the exit code. RequestError where nothing can be measured."""
    if not prepared:
        raise RequestError(f"{checkpoint} is a checkpoint: name the prepared data that it is measured on with --prepared DIR")
    store = storage.Folder(output or f"{checkpoint.rstrip('/')}/evaluation")
    problem = storage.writable(store.url)
    if problem is not None:
        raise RequestError(f"cannot write to {store.url}: {problem}; name another folder with --output")
    loaded = load(checkpoint)
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    with torch.inference_mode():
        scored = list(_encoded(loaded, prepared, limit))
        result = {"checkpoint": checkpoint, "prepared": prepared, "seed": seed, **_measured(loaded, scored, seed)}
    store.put("understanding.json", json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False).encode())
    _show(result)
    console.print(f"scores   {store.url}/understanding.json", soft_wrap=True)
    return 0


def _encoded(loaded: Loaded, prepared: str, limit: int) -> Iterator[_Scored]:
    """The first `limit` samples that have a medium and a text, in batches."""
    spec, device, found = feed_spec(loaded.model.config), loaded.model.device, 0
    for batch in _batches(prepared, spec, loaded.tokenizer.pad_id):
        memory = loaded.model.encode(to_device(batch, device))
        good = (batch.weight_b > 0) & memory.mask_bm[:, 1:].any(dim=1).cpu()
        rows = torch.nonzero(good)[: limit - found, 0]
        found += len(rows)
        if len(rows):
            ids, mask = batch.token_ids_bt[rows], batch.token_mask_bt[rows]
            kept = memory.rows(rows.to(device))
            media, texts = _common(loaded, kept, ids.to(device), mask.to(device))
            origins = tuple(batch.origins[row] for row in rows.tolist())
            texts_only = Batch(
                origins=origins, token_ids_bt=ids, token_mask_bt=mask, weight_b=batch.weight_b[rows], seeds_b=batch.seeds_b[rows]
            )
            yield _Scored(texts_only, Memory(states_bmd=kept.states_bmd.cpu(), mask_bm=kept.mask_bm.cpu()), media, texts)
        if found >= limit:
            return
    if not found:
        raise RequestError(f"no sample of {prepared} has a text and a medium that the model takes ({', '.join(spec.modalities)})")


def _batches(prepared: str, spec: FeedSpec, pad_id: int) -> Iterator[Batch]:
    for number, file in enumerate(open_corpus(prepared).files):
        for first in range(0, file.rows, BATCH):
            last = min(first + BATCH, file.rows)
            rows = np.arange(first, last)
            table = decode_rows(read_rows(file, ((first, last),)), spec, seed=0, epoch=-1, files=np.full(len(rows), number), rows=rows)
            yield collate(table, px=spec.px, pad_id=pad_id).batch


def _common(loaded: Loaded, memory: Memory, ids: torch.Tensor, mask: torch.Tensor) -> tuple[np.ndarray | None, np.ndarray | None]:
    model: Any = loaded.model
    if not hasattr(model, "common"):
        return None, None
    shown = memory.mask_bm.clone()
    shown[:, 0] = False
    sides = (model.common.of_media(memory.states_bmd, shown), model.common.of_texts(model.word_states(ids, mask), mask))
    return tuple(side.float().cpu().numpy() for side in sides)


def _measured(loaded: Loaded, scored: list[_Scored], seed: int) -> dict[str, Any]:
    """All figures. Texts are those that were scored: decoded tokens."""
    ids = [row[mask].tolist() for one in scored for row, mask in zip(one.batch.token_ids_bt, one.batch.token_mask_bt, strict=True)]
    texts = [loaded.tokenizer.decode(row) for row in ids]
    other = derangement([tuple(row) for row in ids], seed)
    places = [(number, row) for number, one in enumerate(scored) for row in range(len(one.batch.weight_b))]
    sums: dict[str, list[np.ndarray]] = {name: [] for name in MEDIA}
    done = 0
    for one in scored:
        n = len(one.batch.weight_b)
        shuffled = _gathered(scored, [places[at] for at in other[done : done + n]])
        for name, memory in zip(MEDIA, (one.memory, shuffled, one.memory.absent()), strict=True):
            seen = to_device(memory, loaded.model.device)
            each = loaded.model.score(seen, one.batch.token_ids_bt.to(loaded.model.device), one.batch.token_mask_bt.to(loaded.model.device))
            sums[name].append(each.sum(dim=1).double().cpu().numpy())
        done += n
    total = {name: np.concatenate(parts) for name, parts in sums.items()}
    tokens = np.array([len(row) - 1 for row in ids])
    unknown = np.array([sum(token == loaded.tokenizer.unk_id for token in row) for row in ids])
    found: dict[str, Any] = {"samples": len(ids)}
    found["probability"] = {name: asdict(likelihood(values, tokens, texts, unknown)) for name, values in total.items()}
    found["pair_accuracy"] = {name: pair_accuracy(total["right"], total[name]) for name in MEDIA[1:]}
    found["retrieval"] = _retrieval(scored, ids)
    return found


def _gathered(scored: list[_Scored], places: list[tuple[int, int]]) -> Memory:
    """Memories from different batches, padded to the longest."""
    states = [scored[number].memory.states_bmd[row] for number, row in places]
    masks = [scored[number].memory.mask_bm[row] for number, row in places]
    pad = torch.nn.utils.rnn.pad_sequence
    return Memory(states_bmd=pad(states, batch_first=True), mask_bm=pad(masks, batch_first=True))


def _retrieval(scored: list[_Scored], ids: list[list[int]]) -> dict[str, Any] | None:
    """Both ways; None for a model that was not trained to compare media and texts."""
    media = [one.media for one in scored if one.media is not None]
    texts = [one.texts for one in scored if one.texts is not None]
    if not media:
        return None
    known: dict[tuple[int, ...], int] = {}
    labels = np.array([known.setdefault(tuple(row), len(known)) for row in ids])
    sides = np.concatenate(media), np.concatenate(texts)
    both = {"medium_to_text": ranks(*sides, labels, labels), "text_to_medium": ranks(*sides[::-1], labels, labels)}
    return {name: asdict(retrieval(found)) for name, found in both.items()}


def _show(result: dict[str, Any]) -> None:
    console.print(f"{result['samples']:,} samples")
    table = Table(box=None, pad_edge=False)
    for name in ("medium", "perplexity", "bits a byte", "unknown tokens", "right one is likelier"):
        table.add_column(name, justify="left" if name == "medium" else "right", no_wrap=True)
    for name, figures in result["probability"].items():
        pair = result["pair_accuracy"].get(name)
        cells = (f"{figures['perplexity']:,.2f}", f"{figures['bits_per_byte']:.3f}", f"{figures['unknown_share']:.2%}")
        table.add_row(name, *cells, "" if pair is None else f"{pair:.1%}")
    console.print(table)
    for name, found in (result["retrieval"] or {}).items():
        recall = " · ".join(f"R@{k} {share:.1%}" for k, share in found["recall"].items())
        console.print(f"{name.replace('_', ' ')}: {recall} · median rank {found['median_rank']:g}")
