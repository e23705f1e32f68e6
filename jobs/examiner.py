"""One process that measures bundles with a model: prepared rows in, one file of results a bundle out.

    decode -> encode media and texts -> log P of each text with its medium, another's, none -> class names -> painted pictures

A bundle's file appears when all of it is measured; whoever comes again finds it and does nothing.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from jobs.bundles import Bundle
from pipeline import schema, storage
from pipeline.errors import RequestError
from pipeline.evaluation import examine, painting
from pipeline.evaluation.medium import derangement
from pipeline.evaluation.understanding import zero_shot
from pipeline.model.folder import load
from pipeline.model.generate import GenerationConfig, generate
from pipeline.model.memory import Memory
from pipeline.training.batches import collate, to_device
from pipeline.training.corpus import read_rows
from pipeline.training.feed import decode_rows, feed_spec

READINGS = ("raw", "normalised", "calibrated", "contrastive")
JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminerSpec:
    """What an examiner is told."""

    checkpoint: str
    output: str
    """Folder of the results' files."""
    classes: tuple[str, ...]
    class_text: str
    paint: frozenset[tuple[str, int]]
    """(shard, index) of the samples whose text is painted."""
    generate: bool
    """Caption every sample as well."""
    seed: int
    threads: int
    """Of torch; 0 leaves them."""


def part_path(number: int) -> str:
    """Of a bundle's results, below the output."""
    return f"{number:06d}.parquet"


class Examiner:
    """Holds the model."""

    def __init__(self, spec: ExaminerSpec) -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self._spec, self._loaded = spec, load(spec.checkpoint)
        self._model: Any = self._loaded.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._classes = examine.classes_of(spec.classes, spec.class_text, self._loaded) if spec.classes else None
        with torch.inference_mode():
            self._without = self._class_sums(examine.null_memory(self._model, 1))[0] if self._classes else np.empty(0)
            self._common = examine.common_classes(self._model, self._classes) if self._classes else None

    def measure(self, bundle: Bundle) -> int:
        """Writes the bundle's results; returns its number."""
        store = storage.Folder(self._spec.output)
        if not store.exists(part_path(bundle.number)):
            with torch.inference_mode():
                rows = self._rows(bundle)
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema.MEASURED), sink, compression="zstd")
            store.put(part_path(bundle.number), sink.getvalue())
        return bundle.number

    def _rows(self, bundle: Bundle) -> list[dict[str, Any]]:
        seen: list[examine.Seen] = []
        known: dict[tuple[str, int], dict[str, Any]] = {}
        painted: dict[tuple[str, int], dict[str, Any]] = {}
        for facts, batch in self._batches(bundle):
            known |= facts
            found = examine.see(self._model, batch)
            if found is not None:
                seen.append(found)
                painted |= self._painted(batch) if not bundle.features_only else {}
        rows = [known[origin] | self._of_text(one, at) for one in seen for at, origin in enumerate(one.batch.origins)]
        if not bundle.features_only:
            _add(rows, self._probabilities(seen))
            if self._spec.generate:
                _add(rows, self._captions(seen))
            if self._classes is not None:
                _add(rows, self._zero_shot(seen))
        for row in rows:
            row["painted"] = painted.get((row["shard"], row["index"]))
        return rows

    def _batches(self, bundle: Bundle) -> Iterator[tuple[dict[tuple[str, int], dict[str, Any]], Any]]:
        """Facts of samples by place, and a batch of them on the device."""
        spec, at = feed_spec(self._loaded.model.config), 0
        for stretch in bundle.stretches:
            table = read_rows(stretch.file, ((stretch.first, stretch.last),))
            for start in range(0, table.num_rows, examine.BATCH):
                piece = table.slice(start, examine.BATCH)
                places = np.arange(stretch.first + start, stretch.first + start + piece.num_rows)
                plain = [_facts(row) for row in piece.select(["shard", "index", "modality", "text", "references"]).to_pylist()]
                labels = bundle.labels[at : at + len(plain)] or (None,) * len(plain)
                at += len(plain)
                facts = {(row["shard"], row["index"]): row | {"label": label} for row, label in zip(plain, labels, strict=True)}
                decoded = decode_rows(piece, spec, seed=0, epoch=-1, files=places * 0, rows=places)
                yield facts, to_device(collate(decoded, px=spec.px, pad_id=self._loaded.tokenizer.pad_id).batch, self._model.device)

    def _of_text(self, one: examine.Seen, at: int) -> dict[str, Any]:
        ids = one.batch.token_ids_bt[at][one.batch.token_mask_bt[at]].tolist()
        text = self._loaded.tokenizer.decode(ids)
        found: dict[str, Any] = {"text": text, "n_tokens": len(ids) - 1, "n_bytes": len(text.encode(errors="replace"))}
        found["n_unknown"] = sum(token == self._loaded.tokenizer.unk_id for token in ids)
        vectors = (
            ("media", one.media_bd),
            ("words", one.texts_bd),
            ("common_media", one.common_media_bd),
            ("common_texts", one.common_texts_bd),
        )
        return found | {name: values[at].tolist() for name, values in vectors if values is not None}

    def _probabilities(self, seen: Sequence[examine.Seen]) -> dict[str, Sequence[Any]]:
        texts = [
            tuple(row[mask].tolist()) for one in seen for row, mask in zip(one.batch.token_ids_bt, one.batch.token_mask_bt, strict=True)
        ]
        places = [(number, row) for number, one in enumerate(seen) for row in range(len(one.batch.origins))]
        try:
            other: Sequence[int] | None = derangement(texts, self._spec.seed).tolist()
        except RequestError:
            other = None  # one reference stands at most of these samples: they take no part in that comparison
        sums: dict[str, list[Any]] = {"logp_right": [], "logp_shuffled": [], "logp_absent": []}
        done = 0
        for one in seen:
            count = len(one.batch.origins)
            sums["logp_right"] += examine.text_sums(self._model, one.memory, one.batch).tolist()
            sums["logp_absent"] += examine.text_sums(self._model, examine.null_memory(self._model, count), one.batch).tolist()
            if other is None:
                sums["logp_shuffled"] += [None] * count
            else:
                memory = examine.gather(seen, [places[at] for at in other[done : done + count]])
                sums["logp_shuffled"] += examine.text_sums(self._model, memory, one.batch).tolist()
            done += count
        return dict(sums)

    def _captions(self, seen: Sequence[examine.Seen]) -> dict[str, Sequence[Any]]:
        """Greedy captions."""
        found: dict[str, list[Any]] = {"caption": [], "cut": []}
        for one in seen:
            memory = Memory(states_bmd=one.memory.states_bmd.to(self._model.device), mask_bm=one.memory.mask_bm.to(self._model.device))
            for said in generate(self._model, memory, GenerationConfig()):
                found["caption"].append(" ".join(self._loaded.tokenizer.decode(said.token_ids).split()))
                found["cut"].append(said.cut)
        return dict(found)

    def _class_sums(self, memory: Any) -> np.ndarray:
        assert self._classes is not None
        return examine.class_sums(self._model, memory, self._classes)

    def _zero_shot(self, seen: Sequence[examine.Seen]) -> dict[str, Sequence[Any]]:
        """Predicted classes by reading, of media and of texts."""
        assert self._classes is not None
        media, texts = [], []
        for one in seen:
            media += self._read(self._class_sums(one.memory), one.common_media_bd)
            continued = examine.continued_sums(self._model, one.batch, self._classes, self._loaded.tokenizer.end_id)
            texts += self._read(continued, one.common_texts_bd)
        return {"zero_shot_medium": media, "zero_shot_text": texts}

    def _read(self, given: np.ndarray, common: np.ndarray | None) -> list[dict[str, str]]:
        assert self._classes is not None
        found = zero_shot(given, self._without, self._classes.tokens_k)
        read: dict[str, np.ndarray] = {"raw": found.raw, "normalised": found.normalised, "calibrated": found.calibrated}
        if common is not None and self._common is not None:
            read["contrastive"] = (common @ self._common.T).argmax(axis=1)
        return [{name: self._classes.names[at[row]] for name, at in read.items()} for row in range(len(given))]

    def _painted(self, batch: Any) -> dict[tuple[str, int], dict[str, Any]]:
        """Of the samples that are to be painted: how near, and what the captioner calls the picture."""
        if batch.pictures is None or not painting.can_paint(self._model):
            return {}
        wanted = [
            at
            for at, row in enumerate(batch.pictures.rows_n.tolist())
            if batch.origins[row] in self._spec.paint and batch.weight_b[row] > 0
        ]
        if not wanted:
            return {}
        rows, real = batch.pictures.rows_n[wanted], batch.pictures.pixels_nchw[wanted]
        ids, mask = batch.token_ids_bt[rows], batch.token_mask_bt[rows]
        made = painting.paint(self._model, ids, mask)
        other = painting.paint(self._model, ids.roll(1, 0), mask.roll(1, 0)) if len(wanted) > 1 else None
        found = {}
        captions = {name: self._called(pixels) for name, pixels in (("made", made), ("real", real))}
        shuffled = painting.psnr(other, real) if other is not None else [None] * len(wanted)
        ratios = zip(painting.psnr(made, real), shuffled, painting.psnr(painting.flat(real), real), strict=True)
        for at, (row, (own, others, one_colour)) in enumerate(zip(rows.tolist(), ratios, strict=True)):
            reference = self._loaded.tokenizer.decode(ids[at][mask[at]].tolist())
            found[batch.origins[row]] = {
                "psnr": float(own),
                "psnr_shuffled": None if others is None else float(others),
                "psnr_flat": float(one_colour),
                "reference": reference,
                "caption": captions["made"][at],
                "caption_of_real": captions["real"][at],
                "picture": _jpeg(made[at]),
                "real": _jpeg(real[at]),
            }
        return found

    def _called(self, pixels: torch.Tensor) -> list[str]:
        """Captions of pictures."""
        tokens = self._model.pictures(pixels) + self._model.kinds["image"]
        null = examine.null_memory(self._model, len(pixels))
        states = torch.cat([null.states_bmd, tokens], dim=1)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mask[:, 0] = False
        memory = Memory(states_bmd=states, mask_bm=mask)
        return [self._loaded.tokenizer.decode(one.token_ids) for one in generate(self._model, memory, GenerationConfig())]


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """Place and modality of a prepared row, and all its texts."""
    texts = row["references"] or ([row["text"]] if row["text"] is not None else [])
    return {"shard": row["shard"], "index": row["index"], "modality": row["modality"], "references": texts}


def _add(rows: list[dict[str, Any]], columns: dict[str, Sequence[Any]]) -> None:
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value


def _jpeg(pixels_chw: torch.Tensor) -> str:
    """base64."""
    sink = io.BytesIO()
    Image.fromarray(pixels_chw.permute(1, 2, 0).cpu().numpy()).save(sink, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(sink.getvalue()).decode()
